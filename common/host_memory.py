"""The memory that DeepSpeed shares between the processes of one host, for collectives on CPUs.

It is named by user, address and port of the place where processes meet, and whoever is killed leaves it: the next run
that meets there takes it for its peers', whose state it is not, and sums what lies in it or waits for ever. Here each
start has names of its own, which are gone as soon as all have met: what is mapped stays until the last of them ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SEGMENTS = Path("/dev/shm")


@contextmanager
def own_segments(token: str) -> Iterator[None]:
    """Around `deepspeed.init_distributed` and a barrier.

    Args:
        token: the same on all ranks, and another one for each start.
    """
    port = os.environ["MASTER_PORT"]
    os.environ["MASTER_PORT"] = f"{port}-{token}"
    try:
        yield
    finally:
        os.environ["MASTER_PORT"] = port
        for segment in SEGMENTS.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_*_{port}-{token}_*"):
            with suppress(OSError):  # another rank was there before
                segment.unlink()
