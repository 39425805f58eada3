"""What a tokenizer loses of details, in numbers: the failures of the paper's Figures 9 and 10 as curves."""
