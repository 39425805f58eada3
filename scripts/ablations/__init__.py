"""The paper's ablations of the tokenizer: Table 5 (the codebook) and Table 6 (how it is trained)."""
