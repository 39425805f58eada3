"""The tokenizer as standard Hugging Face classes. `common.models.vqrae` registers them with the Auto classes."""
