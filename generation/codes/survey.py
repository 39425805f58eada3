"""What a folder of codes holds: how many, how evenly they use the codebook, and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from generation.codes.facts import read_facts
from generation.codes.library import CodeSource
from generation.codes.record import SourceRecord, records, told
from generation.codes.shard import Shard, shard_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from common.models.vqrae import VQRAE

AT_ONCE = 4096  # pictures whose codes are counted together; also the longest sheet
ON_A_SHEET = 24


@dataclass(frozen=True)
class Usage:
    """How codes are used.

    Args:
        codes: counted. used: of the K codes, those that occur. perplexity: e to the entropy of their shares, 1 to K.
    """

    codes: int
    used: int
    perplexity: float

    @classmethod
    def of(cls, counts: np.ndarray) -> Usage:
        """counts (K,) int64: how often each code occurs."""
        shares = counts[counts > 0] / max(1, counts.sum())
        entropy = float(-(shares * np.log(shares)).sum())
        return cls(int(counts.sum()), int((counts > 0).sum()), float(np.exp(entropy)) if len(shares) else 0.0)


def sources_of(root: Path) -> list[SourceRecord]:
    """Raises `UserError` if there are none."""
    read_facts(root)
    found = list(records(root).values())
    if not found:
        raise UserError(f"{root}: no source was extracted to its end; run generation/extract_codes.py")
    return found


def count_codes(root: Path, record: SourceRecord) -> np.ndarray:
    """(K,) int64: how often each code occurs in a source.

    Raises:
        UserError: a shard is absent or damaged.
    """
    counts = np.zeros(read_facts(root).codebook_size, dtype=np.int64)
    for name in (entry.shard for entry in record.files):
        shard = Shard(shard_path(root, name))
        for first in range(0, len(shard), AT_ONCE):
            codes = shard.codes(first, min(first + AT_ONCE, len(shard)))
            counts += np.bincount(codes.ravel(), minlength=len(counts))
    return counts


def survey(root: Path) -> list[str]:
    """Lines: the facts; of each source its counts and usage; and the usage of all together.

    Raises:
        UserError: no codes, or damaged ones.
    """
    facts, total = read_facts(root), 0
    lines = [
        f"{root}: {facts.grid[0]} x {facts.grid[1]} codes of {facts.codebook_size:,} for a picture of "
        f"{facts.image_size} px ({facts.crop} crop); encoder {facts.precision}; VQRAE {facts.vqrae_sha256[:12]}"
    ]
    counts = np.zeros(facts.codebook_size, dtype=np.int64)
    for record in sources_of(root):
        own = count_codes(root, record)
        lines += [told(record), f"  {_told(own)}"]
        counts, total = counts + own, total + 1
    return lines if total == 1 else [*lines, f"all {total} sources", f"  {_told(counts)}"]


def _told(counts: np.ndarray) -> str:
    usage = Usage.of(counts)
    share = 100 * usage.used / len(counts)
    used = f"{usage.used:,} of {len(counts):,} used ({share:.1f}%)"
    return f"{usage.codes:,} codes; {used}, perplexity {usage.perplexity:,.1f}"


def sheet(root: Path, vqrae: VQRAE, sha256: str, number: int = ON_A_SHEET) -> Image:
    """A page of samples of all sources, evenly spaced, decoded, above their captions.

    Args:
        vqrae: on its device. sha256: of its weights (`state_sha256`).

    Raises:
        UserError: it is another one than that of the codes.
    """
    import torch

    from common.data.images import to_pil, to_uint8
    from common.sheets import captioned_sheet

    facts = read_facts(root)
    if facts.vqrae_sha256 != sha256:
        raise UserError(
            f"{root}: these codes are of another VQRAE: they have {facts.vqrae_sha256[:12]}..., "
            f"the model {sha256[:12]}..."
        )
    sources = [CodeSource(root, record) for record in sources_of(root)]
    rows: list[tuple[Image, str]] = []
    for source, share in zip(sources, _shares(number, [len(source) for source in sources]), strict=True):
        for turn in range(share):
            sample = source.read(turn * len(source) // share)
            with torch.inference_mode():
                pixels = vqrae.decode(torch.from_numpy(sample.codes)[None].to(vqrae.device))[0]
            rows.append((to_pil(to_uint8(pixels).cpu()), sample.caption or "(no caption)"))
    return captioned_sheet(rows)


def _shares(number: int, lengths: Sequence[int]) -> list[int]:
    """How many of `number` samples are taken of sources of these lengths: evenly, none twice."""
    return [min(max(1, number // len(lengths)), length) for length in lengths]
