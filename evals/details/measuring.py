"""Every test's charts through every tokenizer, and what is seen afterwards; kept in parts: nothing is done twice.

What is notable here: a part is some charts of one test through one model, and its file is named by all that it follows
from. So a call that was stopped goes on, one with another model measures only that, and processes share out parts:
since a chart stands beside the same others in any number of processes, its scores are equal to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common import dist
from common.data.images import to_float, to_uint8
from common.files import write_json
from common.models.vqrae import VQRAE
from evals.details.charts import DetailTest
from tokenizer.inference import reconstruct

ORIGINAL = "original"
"""The source that is the charts themselves."""
PART = 64
"""Charts at a time."""
Row = dict[str, Any]
"""A `Seen` as plain values, with the `index` of its chart."""
Rebuild = Callable[[np.ndarray], np.ndarray]
"""uint8 (B, S, S, 3) -> the same form."""


def rebuilder(model: VQRAE, device: torch.device, batch: int) -> Rebuild:
    """A model, which is on `device`, as it is measured: at any size, `batch` pictures at a time."""

    def rebuild(pixels: np.ndarray) -> np.ndarray:
        parts = []
        for part in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(batch):
            rebuilt, _ = reconstruct(model, to_float(part.to(device)))
            parts.append(to_uint8(rebuilt).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts)

    return rebuild


def measure(
    tests: Sequence[DetailTest],
    rebuild: Rebuild,
    kept: Path,
    facts: Mapping[str, Any],
    bar: tqdm,
    limit: int | None = None,
) -> dict[str, list[Row]]:
    """All rows of one source, by test, in the order of the charts; every rank calls it and gets the same.

    Args:
        rebuild: the source; for the charts themselves, what returns its argument.
        kept: a folder for parts.
        facts: what the source's pictures follow from: plain values.
        bar: moved on by this rank's charts.
        limit: so many charts of each test.
    """
    found: dict[str, list[Row]] = {}
    for test in tests:
        count = len(test) if limit is None else min(limit, len(test))
        own: list[Row] = []
        for number, first in enumerate(range(0, count, PART)):
            if number % dist.world() != dist.rank():
                continue
            indices = range(first, min(first + PART, count))
            identity = {"test": test.name, **test.identity, **facts, "charts": [first, indices.stop]}
            path = kept / f"{test.name}-{_digest(identity)}.json"
            rows = _read(path)
            if rows is None:
                rows = _measure_part(test, rebuild, indices)
                write_json(path, rows, indent=None)
            own += rows
            bar.update(len(indices))
        merged = [row for part in dist.gather_objects(own) for row in part]
        found[test.name] = sorted(merged, key=lambda row: row["index"])
    return found


def _measure_part(test: DetailTest, rebuild: Rebuild, indices: range) -> list[Row]:
    charts = [test.chart(index) for index in indices]
    pictures = rebuild(np.stack([chart.pixels for chart in charts]))
    return [
        {"index": index, **asdict(seen)}
        for index, chart, picture in zip(indices, charts, pictures, strict=True)
        for seen in test.measure(chart, picture)
    ]


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=12).hexdigest()


def _read(path: Path) -> list[Row] | None:
    """None where there is none, or no whole one."""
    with suppress(OSError, ValueError, UnicodeDecodeError):
        rows = json.loads(path.read_text(encoding="utf-8"))
        return rows if isinstance(rows, list) else None
    return None
