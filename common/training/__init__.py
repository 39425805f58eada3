"""Nouns that three trainers share: engine, optimizer, checkpoint, metrics, run folder. No control flow."""
