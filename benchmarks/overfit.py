"""Whether answers about photographs can be learned by heart: the whole path from pixels to generated text, closed.

    python -m benchmarks.overfit --photos DIR [--output OUT]     DIR holds llava_conversations.json and its images

The questions are the same few for all photographs, so an answer can be known from the picture only. Tower and
language model are small and random; the tower stays frozen, the language model learns with the projector. Then every
answer is generated from the exported folder, greedily, after the right turns before it, and compared: once with its
own picture, once with another one's. A stopped call is resumed. Writes results.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, recipe_parser, report
from common.errors import UserError, run_cli

RECIPE = ROOT / "benchmarks" / "overfit.yaml"
TOGETHER = 64  # answers generated at a time


def main() -> None:
    parser = recipe_parser(__doc__, RECIPE, "folder in LLaVA's format")
    options = parser.parse_args()
    annotations = options.photos / "llava_conversations.json"
    if not annotations.is_file():
        raise UserError(f"{annotations}: --photos: no such file")
    records = json.loads(annotations.read_text(encoding="utf-8"))
    arguments = [
        f"output={options.output / 'run'}",
        f"data.sources=[{{annotations: {annotations}, images: {options.photos}}}]",
        f"model.tower.source={options.output / 'tower'}",
        f"model.language_model.source={options.output / 'language_model'}",
        *options.overrides,
    ]
    if not (options.output / "tower").is_dir():
        write_models(options.output, records, arguments)
    train = [sys.executable, str(ROOT / "understanding" / "train.py"), "--config", str(RECIPE)]
    if subprocess.run([*train, *arguments]).returncode:
        raise UserError(f"{options.output / 'run'}: training failed")
    score(options.photos, options.output, records)


def write_models(output: Path, records: list[dict[str, Any]], overrides: list[str]) -> None:
    """A random tower and a random language model by the recipe, with a text tokenizer of the records' words."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Tokenizer

    from common.config import load_config
    from common.models.encoder_loading import build_encoder
    from understanding.config import UnderstandingConfig

    model = load_config(UnderstandingConfig, RECIPE, overrides).model
    torch.manual_seed(0)
    stated = dict(model.language_model.architecture)
    texts = [turn["value"] for record in records for turn in record["conversations"]]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    text_tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        texts, int(stated["vocab_size"]) - 1, new_special_tokens=specials, show_progress=False
    )
    language_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(str(stated.pop("model_type")), **stated)
    )
    language_model.save_pretrained(output / "language_model")
    text_tokenizer.save_pretrained(output / "language_model")
    build_encoder(model.tower.architecture).save_pretrained(output / "tower")


def score(photos: Path, output: Path, records: list[dict[str, Any]]) -> None:
    """Generate every answer and count the exact ones."""
    from PIL import Image

    from common.data.images import read_image
    from understanding.chat.model import load
    from understanding.chat.turns import placed
    from understanding.conversation import questions, read_conversation

    chat = load(output / "run" / "model")
    talks = [list(questions(read_conversation(record).messages)) for record in records]
    pictures = [read_image(photos / record["image"]) for record in records]
    shuffled = [*pictures[1:], pictures[0]]

    def exact(seen: list[Image.Image]) -> dict[str, float]:
        """Share of exact answers by question, its numbers and nouns aside, and over all."""
        asked = [
            (picture, turns, answer)
            for talk, picture in zip(talks, seen, strict=True)
            for turns, answer in talk
        ]
        given: list[str] = []
        for start in range(0, len(asked), TOGETHER):
            some = [([picture], placed(turns)) for picture, turns, _ in asked[start : start + TOGETHER]]
            given += chat.answer(some, max_new_tokens=64)
        hits: dict[str, list[bool]] = {"all": []}
        for (_, turns, truth), answer in zip(asked, given, strict=True):
            kind = turns[-1]["content"].replace("<image>", "").split()[0]
            for key in ("all", kind):
                hits.setdefault(key, []).append(answer == truth)
        return {key: sum(values) / len(values) for key, values in hits.items()}

    scores = {"own picture": exact(pictures), "another's picture": exact(shuffled)}
    report(
        output,
        {"exact": scores, "pictures": len(records)},
        f"exact answers about {len(records)} photographs",
        ("question", *scores),
        [[key, *(f"{values[key]:.1%}" for values in scores.values())] for key in scores["own picture"]],
    )


if __name__ == "__main__":
    run_cli(main)
