"""Trains a language model to write pictures as a tokenizer's discrete codes, and samples from the result."""
