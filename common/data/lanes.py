"""How the lanes of streamed data sets are dealt to processes and their workers: nobody reads what another reads.

The sample at position p is of lane p mod L, and rank r of R takes the positions r, r + R ...: so it comes through
L / gcd(L, R) lanes, again and again, and shares each with R / gcd(L, R) - 1 other ranks. Those lanes are dealt to its
workers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from common.data.sources import Source
from common.errors import UserError

log = logging.getLogger(__name__)


def lane_period(sources: Sequence[Source], world: int, workers: int) -> int:
    """After how many of its samples a rank comes back to the lanes it began with.

    Sample m of a rank goes to worker (m mod period) mod `workers`. Without streamed sources the period is `workers`.

    Raises:
        UserError: several ranks would have to read the same lanes; says how often everything would be downloaded.
    """
    streamed = [source for source in sources if source.lanes is not None]
    for source in streamed:
        times = world // math.gcd(source.lanes or 1, world)
        if times > 1:
            raise UserError(
                f"{source.name}: streaming: {source.lanes} lanes for {world} processes: everything would be downloaded "
                f"{times} times; let data.lanes be a multiple of the processes (and the data set have as many files or "
                "row groups), or the number of processes divide the lanes; or read it with `kind: parquet`, or "
                "with `streaming: false`"
            )
    period = math.gcd(*(source.lanes or 1 for source in streamed)) // world if streamed else workers
    if period < workers:
        log.warning(
            "streaming: %d lanes for %d processes: %d of the %d workers of each have nothing to read; data.lanes: %d, "
            "and as many files or row groups, would keep them all busy",
            period * world, world, workers - period, workers, world * workers,
        )  # fmt: skip
    return period
