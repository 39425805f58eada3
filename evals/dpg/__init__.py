"""DPG-Bench by its original rules, for any judge."""
