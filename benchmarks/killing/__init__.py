"""The parts of `benchmarks.chaos`: the runs, how they live and are killed, and what is held against them."""
