"""The tokenizer as standard Hugging Face classes; importing this registers them with the Auto classes."""
