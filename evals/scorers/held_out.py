"""A judge that is held out from what is learned from must look with other eyes than any of the scorers there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import UserError
from evals.answers import essential
from evals.scorers.scorer import Scorer


def check_held_out(judge: Scorer, rewards: Scorer, where: str) -> None:
    """Raises `UserError` if one of `rewards` looks at pictures with what `judge` looks with, whatever its settings.

    Args:
        where: the judge's place, which the error begins with.
    """
    theirs = dict(_eyes("", essential(rewards.identity)))
    for _, mine in _eyes("", essential(judge.identity)):
        for name, other in theirs.items():
            if mine == other:
                raise UserError(
                    f"{where}: looks at pictures with what the reward {name or rewards.identity['name']} looks with, "
                    "and would praise what is rewarded; choose another detector or model"
                )


def _eyes(name: str, identity: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a scorer, or each part of a weighted one, looks with, by name."""
    for part, stated in identity.get("parts", {}).items():
        yield from _eyes(part, stated)
    if "by" in identity:
        yield name, identity["by"]
