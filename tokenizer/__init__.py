"""The tokenizer's own room: what trains and measures VQRAE."""
