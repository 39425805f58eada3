"""The parts of benchmarks/deep_tokenizer.py."""
