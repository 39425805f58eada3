"""A step of the generator in Table 9's shape, as `generation/train.py` takes it: Qwen3-0.6B, 1024 codes a picture.

Random weights, codes and captions; the batch is laid out by the trainer's own `SequenceBuilder`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_parts.part import Request, Row, run
from benchmarks.gpu_parts.timing import time_steps
from common import dist
from common.config import load_config
from common.language.causal_lm import build_causal_lm
from generation.assemble import start_generator
from generation.config import GenerationConfig
from generation.dataset import Batch, SequenceBuilder
from generation.efficiency import GenerationEfficiency
from generation.objective import NextCode
from generation.vocabulary import VisualVocabulary

RECIPE = "generation/recipes/qwen3_0_6b.yaml"
CAPTION = (32, 160)  # tokens, from and to: mostly the long captions of BLIP3-o
CHECK = (
    *("model.tokenizer.codebook_size=32", "model.tokenizer.codebook_dim=1024", "data.image_size=64"),
    *("data.max_length=60", "model.language_model.text_vocabulary=50"),
    "model.language_model.architecture={model_type: qwen3, hidden_size: 16, intermediate_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, vocab_size: 64, "
    "tie_word_embeddings: true}",
)


class RandomCaptions(SequenceBuilder):
    """Captions of random tokens, whose number varies, cut as real ones are."""

    def prompt(self, caption: str | None, position: int | None) -> list[int]:
        length = min(random.randint(*CAPTION), self.vocabulary.text_room)
        text = [random.randrange(self.vocabulary.offset) for _ in range(length)]
        return [*text, self.vocabulary.begin_image]


def measure(request: Request) -> list[Row]:
    config = recipe(request)
    device = dist.start()
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    vocabulary = VisualVocabulary(
        offset=config.model.language_model.text_vocabulary,
        codebook_size=config.model.tokenizer.codebook_size,
        grid=config.grid,
        image_size=config.data.image_size,
        max_length=config.data.max_length,
        vqrae_sha256="0" * 64,
    )
    model = random_model(config, vocabulary, device)
    batch = random_batch(vocabulary, config.batch.micro_size)
    step = training_step(
        config, NextCode(model, vocabulary, config.loss_vocabulary).to(device), batch, device
    )
    counts = GenerationEfficiency(model, vocabulary, config.loss_vocabulary, device).count(batch)
    row = time_steps(
        f"generator, {config.model.language_model.source}, {vocabulary.image_tokens} codes",
        step,
        device,
        unit="tokens",
        amount=counts["tokens"],
        batch=config.batch.micro_size,
        flops=counts["flops"],
        note=f"random weights and codes; captions of {CAPTION[0]} to {CAPTION[1]} tokens",
        check=request.check,
    )
    row["images_per_second"] = counts["images"] * row["per_second"] / counts["tokens"]
    return [row]


def recipe(request: Request) -> GenerationConfig:
    """The paper's, on one GPU, without accumulation."""
    size = 2 if request.check else load_config(GenerationConfig, RECIPE).batch.micro_size // request.shrink
    overrides = [f"batch.global_size={size}", f"batch.micro_size={size}"]
    return load_config(GenerationConfig, RECIPE, [*overrides, *(CHECK if request.check else ())])


def random_model(config: GenerationConfig, vocabulary: VisualVocabulary, device: torch.device) -> Any:
    """The recipe's language model with the visual rows, float32 as the trainer hands it to its engine."""
    fields = {**config.model.language_model.architecture, "vocab_size": vocabulary.rows}
    with device:
        return build_causal_lm(fields, RECIPE, config.model.attn_implementation)


def random_batch(vocabulary: VisualVocabulary, size: int) -> Batch:
    codes = torch.randint(0, vocabulary.codebook_size, (size, *vocabulary.grid))
    return RandomCaptions(None, vocabulary)(codes, [None] * size, None)


def training_step(
    config: GenerationConfig, model: NextCode, batch: Batch, device: torch.device
) -> Callable[[], None]:
    """One optimizer step of `generation/train.py`."""
    engine = start_generator(model, config)

    def step() -> None:
        output = engine(
            batch["input_ids"].to(device, non_blocking=True),
            batch["predictors"].to(device, non_blocking=True),
            batch["targets"].to(device, non_blocking=True),
        )
        engine.backward(output.loss)
        engine.step()

    return step


if __name__ == "__main__":
    run(measure)
