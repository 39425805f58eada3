"""mPLUG large, the model that answers DPG-Bench's questions, on transformers' parts and from the released files."""
