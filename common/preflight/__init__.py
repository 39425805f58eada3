"""A look at a recipe's data before it is trained on, alike for the three jobs.

`looking` opens a sample of every source, `demand` holds the speed of decoding against what GPUs ask, `leaks` looks for
benchmarks' prompts among captions, `page` says it, and `command` is what the jobs' `preflight.py` share.
"""
