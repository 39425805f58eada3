"""A judge that is held out from what is learned from must look with other eyes than any of the scorers there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import UserError
from evals.scorers.scorer import Scorer

PLACES = ("source", "clip")  # where weights lie changes nothing: they have their hashes


def check_held_out(judge: Scorer, rewards: Scorer, where: str) -> None:
    """Raises `UserError` if one of `rewards` looks at pictures with what `judge` looks with, whatever its settings.

    Args:
        where: the judge's place, which the error begins with.
    """
    theirs = dict(_eyes("", rewards.identity))
    for _, mine in _eyes("", judge.identity):
        for name, other in theirs.items():
            if mine == other:
                called = f"reward {name!r}" if name else "the reward"
                raise UserError(
                    f"{where}: looks at pictures with the same as {called} ({judge.identity['name']}), so it is held "
                    "out from nothing; choose another detector or model"
                )


def _eyes(name: str, identity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a scorer, or each part of a weighted one, looks with: by name, as JSON."""
    for part, stated in identity.get("parts", {}).items():
        yield from _eyes(part, stated)
    if "by" in identity:
        seen = {key: value for key, value in identity["by"].items() if key not in PLACES}
        yield name, json.dumps(seen, sort_keys=True, default=str)
