"""WebDataset tars: what lies in them, how names make samples of it, and the index that remembers it."""
