"""Which pictures are drawn at once.

What is notable here: a row's result follows from what stands in it, from its place and from the shapes that it is
computed in; what stands in other rows changes nothing. In bfloat16 a change of shape or place is enough to tip a draw.
So a batch of `fixed` composition always has `FIXED_ROWS` rows, a prompt always the same width, and a picture always the
same row, each by the picture itself: it comes out equal to the last bit whatever else is drawn, and in whatever order.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIXED_ROWS = 16
WIDTH_STRIDE = 64  # tokens; a prompt's width is a multiple of it


@dataclass(frozen=True)
class Job:
    """One picture to draw.

    Args:
        prompt_index: the prompt's place in a list or a folder, for names; the picture does not depend on it.
        sample_index: the picture's number among those of its prompt.
    """

    prompt: str
    prompt_index: int
    sample_index: int


@dataclass(frozen=True)
class Batch:
    """Rows that are computed together.

    Args:
        rows: None: computed, and thrown away.
        width: slots of every prompt, see `Sampler.sample`; 0: as many as the longest one takes.
    """

    rows: tuple[Job | None, ...]
    width: int = 0

    @property
    def jobs(self) -> list[Job]:
        return [job for job in self.rows if job is not None]


def jobs_for(prompts: Sequence[str], n: int, numbers: Sequence[int] | None = None) -> list[Job]:
    """`n` pictures of each prompt, prompt after prompt; `numbers` are the prompts' own, None: their places."""
    pairs = zip(range(len(prompts)) if numbers is None else numbers, prompts, strict=True)
    return [Job(prompt, index, sample) for index, prompt in pairs for sample in range(n)]


def in_turn(jobs: Sequence[Job], size: int) -> list[Batch]:
    """As they stand, `size` at once; the last batch is filled up to the size of the others."""
    size = min(size, len(jobs))
    parts = [jobs[first : first + size] for first in range(0, len(jobs), size or 1)]
    return [Batch((*part, *[None] * (size - len(part)))) for part in parts]


def fixed(jobs: Sequence[Job], length: Callable[[str], int], most: int) -> list[Batch]:
    """Batches in which a picture's row and width follow from its prompt and number alone.

    Args:
        length: tokens of a prompt. most: slots that the model has for one.
    """
    waiting: dict[int, dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        # Neighbouring rows for the pictures of one prompt, so that 16 of it fill a batch.
        start = hashlib.blake2b(" ".join(job.prompt.split()).encode("utf-8", "replace"), digest_size=8)
        row = (int.from_bytes(start.digest(), "little") + job.sample_index) % FIXED_ROWS
        width = min(-(-length(job.prompt) // WIDTH_STRIDE) * WIDTH_STRIDE, most)
        waiting[width][row].append(job)
    batches = []
    for width, rows in waiting.items():
        for place in range(max(map(len, rows.values()))):
            taken = (rows[row][place : place + 1] for row in range(FIXED_ROWS))
            batches.append(Batch(tuple(found[0] if found else None for found in taken), width))
    return batches
