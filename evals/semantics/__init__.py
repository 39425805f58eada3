"""What a tokenizer keeps of meaning: linear probe, nearest neighbours and zero-shot, before and after its training."""
