"""Train the demo's language model from scratch, on the miniature world's captions: text alone, no picture.

    python -m scripts.demo.language_model --world runs/demo/world --out runs/demo/language_model

It writes a plain transformers folder with its text tokenizer: the rest of the demo treats it as it would treat a
downloaded Qwen. Its shape is the one that understanding's recipe states.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.command import a_seed, positive
from common.config import load_config
from common.errors import UserError, run_cli
from scripts.demo.command import world_parser
from scripts.demo.learning import has_bfloat16, learn
from scripts.demo.text_tokenizer import learn_tokens
from scripts.demo.world import read_records

RECIPE = Path(__file__).parents[2] / "understanding" / "recipes" / "demo_pretrain.yaml"
CONTROLS = ("<|im_start|>", "<|im_end|>")  # of ChatML
# What ChatML says besides: as letters, it would be half of a conversation's tokens.
ROLES = ("user\n", "assistant\n", "system\nYou are a helpful assistant.")
BATCH, RATE = 32, 2e-3
IGNORED = -100


def read_texts(world: Path) -> tuple[list[str], list[str]]:
    """Captions and descriptions, which are learned; questions and answers, whose words the vocabulary needs too.

    Raises:
        UserError: the folder holds no world.
    """
    records, talks = read_records(world / "captions.jsonl"), read_records(world / "questions.json")
    captions = [record[key] for record in records for key in ("caption", "description")]
    return captions, [turn["value"] for talk in talks for turn in talk["conversations"]]


def batches(texts: list[list[int]], rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels (B, L) of random texts, padded at the right, without end."""
    while True:
        rows = [texts[index] for index in rng.integers(len(texts), size=BATCH)]
        width = max(map(len, rows))
        ids = torch.zeros(BATCH, width, dtype=torch.long)
        labels = torch.full((BATCH, width), IGNORED)
        for row, text in enumerate(rows):
            ids[row, : len(text)] = labels[row, : len(text)] = torch.tensor(text)
        yield ids, labels


def train(model: Any, texts: list[list[int]], steps: int, seed: int) -> float:
    """AdamW with a short warm-up and a cosine to zero; the mean loss of the last 20 steps, in nats a token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    stream = batches(texts, np.random.default_rng(seed))

    def next_loss() -> Tensor:
        ids, labels = next(stream)
        return model(input_ids=ids, labels=labels).loss  # causal: what pads is never seen

    with tqdm(total=steps, desc="language model", unit="step") as progress:
        bf16 = has_bfloat16()
        losses = learn(model, optimizer, next_loss, steps, rate=RATE, bf16=bf16, progress=progress)
    return float(np.mean(losses[-20:]))


def main() -> None:
    parser = world_parser(__doc__, "folder for the language model")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="states its shape (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=800, help="default: %(default)s")
    parser.add_argument("--seed", type=a_seed, default=0)
    options = parser.parse_args()
    captions, talk = read_texts(options.world)

    from transformers import AutoConfig, AutoModelForCausalLM

    from common.models.hub_format import save_language_model
    from understanding.config import UnderstandingConfig

    stated = dict(load_config(UnderstandingConfig, options.recipe).model.language_model.architecture)
    text_tokenizer = learn_tokens([*captions, *talk, *ROLES], None, CONTROLS)  # a word is a token
    if len(text_tokenizer) > int(stated["vocab_size"]):
        raise UserError(
            f"{options.recipe}: model.language_model.architecture.vocab_size: expected at least {len(text_tokenizer)}"
        )
    torch.manual_seed(options.seed)
    end = text_tokenizer.eos_token_id
    config = AutoConfig.for_model(
        str(stated.pop("model_type")), **stated, bos_token_id=None, eos_token_id=end
    )
    model = AutoModelForCausalLM.from_config(config)
    texts = [[*ids, end] for ids in text_tokenizer(captions).input_ids]
    loss = train(model, texts, options.steps, options.seed)
    save_language_model(options.out, model, text_tokenizer)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.out}: {size / 1e6:.2f} M parameters, {loss:.2f} nats a token of a caption")


if __name__ == "__main__":
    run_cli(main)
