"""What `python benchmarks/gpu.py` runs, one process a part."""
