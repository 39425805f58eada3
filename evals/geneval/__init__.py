"""GenEval by its original rules, for any detector."""
