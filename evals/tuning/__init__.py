"""Which settings of the sampler suit a generator, found by a scorer on prompts that no benchmark asks."""
