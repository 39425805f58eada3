"""What a recipe says about a scorer. Imports neither torch nor transformers: `--print-config` stays fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

from common.config import Weight, configclass
from evals.detectors.opening import CLIP

Strict = Literal["off", "named", "all"]
Kind = Literal["rules", "clip", "questions", "legibility"]

OF_KIND: dict[str, tuple[str, ...]] = {
    "rules": ("detector", "graded", "strict", "color_clip"),
    "clip": ("model",),
    "questions": ("model", "answers", "phrasing"),
    "legibility": ("reader",),
}
"""The fields that each kind takes, besides the common ones."""
NEEDED = {"rules": "detector", "questions": "model"}


@configclass
class ScorerConfig:
    """How well a picture shows its prompt, in [0, 1].

    `kind`:
    - `rules`: GenEval's rules on what a detector finds; prompts then have GenEval's metadata.
    - `clip`: similarity of picture and prompt.
    - `questions`: what a LLaVA-style model answers, to questions made from GenEval's metadata or stated by the prompt.
    - `legibility`: how much of the prompt's `text` can be read in the picture.
    """

    kind: Kind
    name: str | None = None  # in logs; null: its kind
    weight: Weight = 1.0  # share in the whole, relative to the other scorers' weights
    # rules: world, mask2former, or the folder, hub id or mmdetection's checkpoint of another detector
    detector: str | None = None
    graded: bool = False  # rules: the share of a prompt's wishes that hold, not 1 where all do and else 0
    # rules: what may not be there more often than a prompt asks for: what GenEval forbids, also the classes that the
    # prompt names, or all that the detector knows. Rewarded by GenEval's own, pictures fill up with what is asked.
    strict: Strict = "off"
    color_clip: str = CLIP  # rules: names colours, unless the detector does
    model: str | None = (
        None  # clip: a CLIP (null: OpenAI's ViT-L/14); questions: a LLaVA-style folder or hub id
    )
    # questions: how likely the right answer is among those that count, or 1 where it is given and else 0
    answers: Literal["probability", "answer"] = "probability"
    phrasing: str | None = None  # questions: a YAML file that words them otherwise
    reader: Literal["auto", "rapidocr", "tesseract"] = "auto"  # legibility: who reads

    def __post_init__(self) -> None:
        taken = {"kind", "name", "weight", *OF_KIND[self.kind]}
        for one in fields(self):
            if one.name not in taken and getattr(self, one.name) != one.default:
                whose = " and ".join(f"`{kind}`" for kind, names in OF_KIND.items() if one.name in names)
                raise ValueError(f"{one.name}: only {whose} scorers have it, found kind {self.kind!r}")
        needed = NEEDED.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"{needed}: a scorer of kind {self.kind!r} needs it")

    @property
    def called(self) -> str:
        return self.name or self.kind


def check_scorers(configs: Sequence[ScorerConfig], field: str) -> None:
    """For the `__post_init__` of a config that has several.

    Raises:
        ValueError: none, two of one name, or weights that are all 0.
    """
    if not configs:
        raise ValueError(f"{field}: expected at least one scorer, found none")
    names = [one.called for one in configs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{field}: two scorers are called {twice!r}; give one of them another `name`")
    if not any(one.weight for one in configs):
        raise ValueError(f"{field}: expected a weight above 0, found none")
