"""What a look at the data has shown, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from common.data.accounts import account_line
from common.data.config import DataConfig
from common.preflight.looking import Looked
from common.text import shown

EXAMPLES = 3
REASONS = 10


def source_lines(looked: Looked, data: DataConfig, captions: bool) -> list[str]:
    """A section of the page. `captions`: whether they are looked for."""
    bad = len(looked.problems)
    share = (
        f" ({bad / looked.tried:.2%}, data.max_corrupt_share allows {data.max_corrupt_share:.2%})"
        if bad
        else ""
    )
    lines = [
        f"{looked.where:<16} {account_line(looked.name, looked.account, captions)}",
        f"  looked at      {looked.tried:,} pictures, {bad:,} cannot be read{share}",
        *reason_lines(looked.problems),
    ]
    if looked.sizes:
        lines += _size_lines(looked.sizes, data.image_size)
        lines += _caption_lines(looked.captions) if captions else []
        waits = np.percentile(looked.waits, [50, 95]) * 1000
        lines.append(f"  reading        {waits[0]:.1f} ms for a picture, 95% within {waits[1]:.1f} ms")
    if looked.twins:
        lines.append(f"  twins          {looked.twins:,} are, byte for byte, another one of those looked at")
    return lines


def reason_lines(problems: Iterable[str]) -> list[str]:
    """How often each reason of `NAME: REASON` lines stands there, the most frequent ones first."""
    reasons = Counter(problem.rpartition(": ")[2] for problem in problems)
    return [f"  {count:>12,}   {reason}" for reason, count in reasons.most_common(REASONS)]


def _size_lines(sizes: Sequence[tuple[int, int]], wanted: int) -> list[str]:
    shorter = np.array([min(size) for size in sizes])
    aspect = np.array([width / height for width, height in sizes])
    least, middle, most = np.percentile(shorter, [0, 50, 100]).astype(int)
    narrow, common, wide = np.percentile(aspect, [5, 50, 95])
    small = int((shorter < wanted).sum())
    return [
        f"  shorter side   {least} to {most} px, median {middle}; {small:,} ({small / len(sizes):.0%}) are enlarged to "
        f"data.image_size, {wanted}",
        f"  width : height {common:.2f} in the middle; 5% are below {narrow:.2f}, 5% above {wide:.2f}",
    ]


def _caption_lines(captions: Sequence[str | None]) -> list[str]:
    given = [caption for caption in captions if caption]
    if not given:
        return ["  captions       none"]
    lengths = np.array([len(caption) for caption in given])
    middle, most, longest = np.percentile(lengths, [50, 95, 100]).astype(int)
    repeated = len(given) - len(set(given))
    lines = [
        f"  captions       {len(given) / len(captions):.1%} have one; characters: median {middle}, 95% up to {most}, "
        f"longest {longest}; {repeated:,} stand there before",
    ]
    spread = [given[place * len(given) // EXAMPLES] for place in range(min(EXAMPLES, len(given)))]
    return [*lines, *(f"    {shown(caption)}" for caption in dict.fromkeys(spread))]
