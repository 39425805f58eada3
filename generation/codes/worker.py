"""One process of a fleet that encodes: it takes what nobody else is at, until nothing is left.

What is notable here: no process waits for a certain other one or talks to it. Jobs are taken by leases; the
next job is taken while the last batches of one are still decoded, so that the encoder never waits between two shards.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.data.batch import Batch
from common.data.corrupt import CorruptCounter
from common.data.evaluation import PREFETCH, EvaluationLoader
from common.data.workers import in_workers
from common.errors import UserError
from generation.code_encoder import CodeEncoder
from generation.codes.facts import CodeFacts
from generation.codes.jobs import Job, SourceJobs
from generation.codes.leases import Leases
from generation.codes.shard import open_shard, write_captions, write_shard
from generation.config import GenerationDataConfig

TEXTS = 1024  # samples of which captions alone are read, at a time
POLL = 1.0  # seconds between looks at what others are at


@dataclass
class _Taken:
    """A job that this process has, and what it has of it so far."""

    job: Job
    encodes: bool
    batches: int
    codes: list[np.ndarray] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


class Worker:
    """Args:
    batch: pictures at once; the same in all processes, or the same pictures may get other codes by a rounding.
    shows: whether it shows a bar.
    """

    def __init__(
        self,
        sources: Sequence[SourceJobs],
        facts: CodeFacts,
        encoder: CodeEncoder,
        data: GenerationDataConfig,
        batch: int,
        leases: Leases,
        shows: bool = True,
    ) -> None:
        self.sources, self.facts, self.encoder, self.data = sources, facts, encoder, data
        self.batch, self.leases, self.shows = batch, leases, shows
        self._loaders = [
            EvaluationLoader(
                source=jobs.source,
                images=(),
                size=data.image_size,
                batch=batch,
                skip_corrupt=True,
                max_pixels=data.max_pixels,
                exact=data.exact_decoding,
            )
            for jobs in sources
        ]
        total = sum(len(jobs.source) for jobs in sources)
        # Here only what is hopeless ends it, not one bad tar; a source is judged once all of it was seen.
        self._corrupt = CorruptCounter(
            data.max_corrupt_share, "data.max_corrupt_share", minimum=max(1000, total)
        )

    def run(self) -> None:
        """Ends when all jobs are done, by whomever.

        Raises:
            UserError: a source cannot be read, too much of what this process saw is damaged, or nothing can be written.
        """
        left = [job for jobs in self.sources for job in jobs.jobs]
        turn = random.SystemRandom().randrange(len(left) or 1)  # so that not all look at the same ones first
        left = left[turn:] + left[:turn]
        total = sum(job.piece.count for job in left)
        with tqdm(total=total, unit="image", desc="codes", disable=not self.shows) as bar:
            while left := self._undone(left, bar):
                if not self._take_what_there_is(left, bar):
                    time.sleep(min(POLL, self.leases.stale / 4))

    def _undone(self, jobs: list[Job], bar: tqdm[Any]) -> list[Job]:
        found = []
        for job in jobs:
            if job.done:
                bar.update(job.piece.count)
            else:
                found.append(job)
        return found

    def _take_what_there_is(self, jobs: list[Job], bar: tqdm[Any]) -> int:
        """How many jobs it has done."""
        taken: deque[_Taken] = deque()
        done = 0
        plan = lambda: self._plan(jobs, taken)  # noqa: E731
        for batch in in_workers(self._load, plan, self.data.workers, PREFETCH, pin=True):
            mine = taken[0]
            self._add(mine, batch)
            mine.batches -= 1
            bar.set_postfix_str(f"{len(taken)} taken", refresh=False)
            if not mine.batches:
                self._write(mine)
                self.leases.give_back(mine.job.shard)
                taken.popleft()
                done += 1
        return done

    def _plan(self, jobs: list[Job], taken: deque[_Taken]) -> Iterator[list[int]]:
        """Batches of one job after the other, each taken when its first batch is asked for: the source's number,
        whether pixels are wanted, indices."""
        for job in jobs:
            if job.done or not self.leases.take(job.shard):
                continue
            if job.done:  # while it was looked at
                self.leases.give_back(job.shard)
                continue
            encodes = not job.encoded
            size = self.batch if encodes else TEXTS
            batches = [job.indices[at : at + size] for at in range(0, len(job.indices), size)]
            taken.append(_Taken(job, encodes, len(batches)))
            number = next(n for n, jobs in enumerate(self.sources) if jobs is job.owner)
            yield from ([number, int(encodes), *indices] for indices in batches)

    def _load(self, numbers: list[int]) -> Batch:
        source, encodes, *indices = numbers
        if encodes:
            return self._loaders[source].load(indices)
        samples = [self.sources[source].source.read(index) for index in indices]
        return {
            "pixels": torch.empty(0),
            "caption": [sample.caption for sample in samples],
            "key": [sample.key for sample in samples],
            "skipped": [],
        }

    def _add(self, mine: _Taken, batch: Batch) -> None:
        if mine.encodes and batch["key"]:
            # As small as on disk at once: a shard waits in memory until it is whole.
            mine.codes += list(self.encoder(batch["pixels"]).cpu().numpy().astype(np.uint16))
        mine.captions += batch["caption"]
        mine.keys += batch["key"]
        mine.skipped += batch["skipped"]
        if mine.encodes:
            self._corrupt.add(batch["skipped"], len(batch["key"]) + len(batch["skipped"]))
            self._corrupt.check()

    def _write(self, mine: _Taken) -> None:
        shard, captions = mine.job.paths
        texts = mine.captions
        if mine.encodes:
            write_shard(shard, self.facts, mine.job.origin, mine.codes, mine.keys, mine.skipped)
        else:
            found = dict(zip(mine.keys, mine.captions, strict=True))
            keys = list(open_shard(shard).keys)
            if not found.keys() >= set(keys):
                absent = next(key for key in keys if key not in found)
                raise UserError(
                    f"{shard}: {absent}: its source has no such picture now; run without --captions-only"
                )
            texts = [found[key] for key in keys]
        write_captions(captions, mine.job.shard, texts)
