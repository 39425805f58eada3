"""The smallest post-training: the tiny generator, prompts with GenEval's metadata, and a reward that random pictures
differ in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiny
import tiny_generator
from PIL import Image
from text_tokenizers import qwen_text_tokenizer

from common.config import _apply_override, validate
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.weighted import WeightedScorer
from post_training.config import PostTrainingConfig

SIDE, ROOM = 4, 42
WISHES = {
    "colors": ["red circle", "blue square"],
    "counting": ["two circles", "three squares", "four circles"],
}
METHODS = {
    "grpo": ["method=grpo", "grpo={}"],
    "rejection": [
        "method=rejection",
        "grpo=null",
        "rejection={keep: 2, threshold: 0.0}",
        "batch.micro_size=2",
    ],
    "dpo": ["method=dpo", "grpo=null", "dpo={beta: 0.5}", "batch.micro_size=2"],
}


class Channel:
    """How red, or how green, a picture is: the mean of a channel in [0, 1], 40 times as far from gray, since an
    untrained VQRAE's pictures are nearly gray."""

    def __init__(self, channel: int = 0) -> None:
        self.channel = channel
        self.identity = {"name": "channel", "by": {"channel": channel}}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        means = [float(np.asarray(one)[..., self.channel].mean() / 255) for one in pictures]
        return [min(1.0, max(0.0, 0.5 + 40 * (mean - 0.5))) for mean in means]


class Constant:
    """The same for every picture."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.identity = {"name": "constant", "by": {"value": value}}

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        return [self.value] * len(pictures)


def rewarded(**scorers: Any) -> AbstractContextManager[Any]:
    """Inside, runs are rewarded by these, in equal shares; default: how red pictures are."""
    scorers = scorers or {"red": Channel()}
    weighted = WeightedScorer({name: (1.0, scorer) for name, scorer in scorers.items()})
    return mock.patch("post_training.rewards.open_weighted", lambda *_: weighted)


def judged(scorer: Any) -> AbstractContextManager[Any]:
    """Inside, this is the held-out judge."""
    return mock.patch("post_training.rewards.open_scorer", lambda *_: scorer)


def write_shelf(folder: Path) -> Path:
    """`generator`, `other_vqrae`, `prompts.jsonl` of two tags, `held_out.jsonl`, `plain.txt`."""
    tiny_generator.write_generator(folder / "generator", side=SIDE, text_room=ROOM)
    tiny_generator.write_vqrae(folder / "other_vqrae", seed=1)
    lines = [json.dumps(metadata(tag, text)) for tag, texts in WISHES.items() for text in texts]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    held_out = [metadata("colors", "green cross"), metadata("counting", "two crosses")]
    (folder / "held_out.jsonl").write_text("\n".join(map(json.dumps, held_out)))
    (folder / "plain.txt").write_text("something red\nsomething blue\n")
    return folder


def metadata(tag: str, text: str) -> dict[str, Any]:
    words = text.split()
    numbers = {"two": 2, "three": 3, "four": 4}
    name = words[-1].removesuffix("es") if words[-1] == "crosses" else words[-1].removesuffix("s")
    name = "cross" if name == "cros" else name
    wish: dict[str, Any] = {"class": name, "count": numbers.get(words[0], 1)}
    if tag == "colors":
        wish["color"] = words[0]
    extra = {"exclude": [{"class": name, "count": wish["count"] + 1}]} if tag == "counting" else {}
    return {"tag": tag, "include": [wish], **extra, "prompt": f"a photo of {text}"}


def recipe(shelf: Path, output: Path, *overrides: str) -> PostTrainingConfig:
    """`overrides` as on the command line."""
    text = len(qwen_text_tokenizer())
    tree: dict[str, Any] = {
        "output": str(output),
        "seed": 0,
        "init_from": str(shelf / "generator"),
        "steps": 4,
        "model": {
            "tokenizer": {
                "source": str(shelf / "generator"),
                "encoder": dict(tiny.SIGLIP),
                "codebook_size": tiny_generator.CODES,
                "codebook_dim": 16,
                "output_patch_size": 4,
                "precision": "fp32",
            },
            "text_vocabulary": text,
            "architecture": {**tiny_generator.SHAPE, "vocab_size": text},
            "image_size": 4 * SIDE,
            "max_length": SIDE * SIDE + ROOM + 2,
        },
        "prompts": {"file": str(shelf / "prompts.jsonl")},
        "rollouts": {"prompts": 4, "group": 4, "batch_size": 8},
        "rewards": [{"kind": "rules", "detector": "world"}],
        "method": "grpo",
        "grpo": {},
        "batch": {"micro_size": 4},
        "optimizer": {
            "lr": 1e-2,
            "schedule": "constant",
            "warmup_steps": 0,
            "adamw": {"betas": [0.9, 0.999], "weight_decay": 0.0, "eps": 1e-8, "max_grad_norm": 1.0},
        },
        "engine": {"zero_stage": 1, "precision": "fp32"},
        "logging": {"log_every": 1, "picture_every": 1000, "evaluate_every": 1000, "writers": []},
        "checkpoint": {"save_every": 2, "keep": 2},
        "samples": {"prompts": [], "per_prompt": 2, "sampling": {"cfg_scale": 1.0}},
        "held_out": None,
    }
    for override in overrides:
        _apply_override(tree, override)
    return validate(PostTrainingConfig, tree, where="tiny")


def held_out(shelf: Path, *more: str) -> str:
    """An override: the held-out prompts and their judge."""
    fields = ", ".join(
        [
            "judge: {kind: rules, detector: world}",
            f"prompts: {shelf / 'held_out.jsonl'}",
            "per_prompt: 2",
            *more,
        ]
    )
    return f"held_out={{{fields}}}"
