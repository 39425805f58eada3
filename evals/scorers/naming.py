"""Scorers by the names that a command line gives them."""

from __future__ import annotations

from typing import Any, get_args

from common.config import validate
from common.errors import UserError
from evals.detectors.opening import CLIP
from evals.scorers.config import Kind, ScorerConfig

NAMES = "rules:DETECTOR, clip, clip:MODEL, questions:MODEL, legibility"
FIELD = {"rules": "detector", "clip": "model", "questions": "model"}
"""What stands behind the colon."""


def scorer_named(name: str, option: str, color_clip: str = CLIP, **stated: Any) -> ScorerConfig:
    """The config of a scorer that is called so: see `NAMES`.

    Args:
        option: where the name was given, for errors.
        stated: further fields.

    Raises:
        UserError: there is no such scorer.
    """
    kind, _, rest = name.partition(":")
    if (
        kind not in get_args(Kind)
        or (rest and kind not in FIELD)
        or (kind in ("rules", "questions") and not rest)
    ):
        raise UserError(f"{option}: expected one of {NAMES}, found {name!r}")
    tree: dict[str, Any] = {"kind": kind, **stated}
    if rest:
        tree[FIELD[kind]] = rest
    if kind == "rules":
        tree["color_clip"] = color_clip
    return validate(ScorerConfig, tree, option)
