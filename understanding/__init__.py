"""Trains a language model to read a tokenizer's continuous features, the LLaVA-1.5 way, and talks to the result."""
