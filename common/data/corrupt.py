"""How many images could not be read, and when that is too many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from common import dist
from common.errors import UserError

KEPT_NAMES = 100
SHOWN_NAMES = 5  # in one line


class CorruptCounter:
    """Counts samples drawn and unreadable images on one rank.

    Use per micro-batch: `add(batch["skipped"], len(batch["key"]))`, which synchronises nothing. At log steps:
    `check_all_ranks`, so that all stop together.
    """

    def __init__(
        self, max_share: float, field: str = "max_corrupt_share", what: str = "images", minimum: int = 1000
    ) -> None:
        """`max_share` of the samples drawn may be unreadable; of `minimum`, as long as fewer were drawn.

        Where all ranks together go through a known number once, that is the `minimum`: a rank whose share begins with
        a bad tar then goes on, unless this tar alone is more than may be bad of all.

        `field` of the recipe sets it, and `what` is counted: both for the error.
        """
        self.max_share, self.field, self.what, self.minimum = max_share, field, what, minimum
        self.names: list[str] = []  # the latest, as `name: reason`
        self._samples = 0
        self._skipped = 0

    def add(self, skipped: Iterable[str], samples: int) -> None:
        new = list(skipped)
        self._samples += samples
        self._skipped += len(new)
        self.names = (self.names + new)[-KEPT_NAMES:]

    def counts(self) -> Tensor:
        """int64 (2,), on the CPU: samples drawn, images skipped, by this rank."""
        return torch.tensor([self._samples, self._skipped])

    def check(self, totals: Tensor | None = None) -> None:
        """Raises:
        UserError: more than the allowed share is unreadable; names the latest that this rank has seen.
        """
        samples, skipped = (int(number) for number in (self.counts() if totals is None else totals))
        self._check(samples, skipped, f"; the latest here: {self.names[-1]}" if self.names else "")

    def check_together(self) -> tuple[int, str]:
        """How many could not be read, over all ranks, which call it together, and a line that says so and names them.

        Raises:
            UserError: as `check`, the same on every rank.
        """
        state = self.state_dict()
        if not state["skipped"]:
            return 0, ""
        named = "; ".join(state["names"][:SHOWN_NAMES])
        self._check(state["samples"], state["skipped"], f": {named}")
        line = (
            f"{state['skipped']} of {state['samples']} {self.what} cannot be read and are left out: {named}"
        )
        return state["skipped"], line

    def _check(self, samples: int, skipped: int, named: str) -> None:
        if skipped > self.max_share * max(samples, self.minimum):
            raise UserError(
                f"{skipped} of {samples} {self.what} could not be read, more than {self.field} allows "
                f"({self.max_share}){named}"
            )

    def check_all_ranks(self, device: torch.device) -> int:
        """Images skipped so far, over all ranks, which call it together.

        Raises:
            UserError: as `check`.
        """
        totals = dist.sum_(self.counts().to(device)).cpu()
        self.check(totals)
        return int(totals[1])

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, of all ranks together, which call it together."""
        samples, skipped, names = zip(
            *dist.gather_objects((self._samples, self._skipped, self.names)), strict=True
        )
        return {
            "samples": sum(samples),
            "skipped": sum(skipped),
            "names": [name for rank in names for name in rank][-KEPT_NAMES:],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Only rank 0 takes the numbers over: the sum stays right, on however many ranks."""
        self._samples, self._skipped = (state["samples"], state["skipped"]) if dist.is_main() else (0, 0)
        self.names = list(state["names"]) if dist.is_main() else []
