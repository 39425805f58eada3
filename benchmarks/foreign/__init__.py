"""Parts of `python -m benchmarks.foreign_loaders`."""
