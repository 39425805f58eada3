"""A step of understanding's fine-tuning in Table 8's shape, as `understanding/train.py` takes it.

Vicuna-7B's shape with as many of its layers as one GPU has room for: weights, gradients and AdamW's states of all 32
take 16 bytes a parameter, 108 GB, which the paper's machines share among them. Every row is one picture and random
text, 2048 tokens in all, half of the text learned. Random weights; the tower reads random pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from benchmarks.gpu_parts.part import Request, Row, run
from benchmarks.gpu_parts.timing import time_steps
from common import dist
from common.config import load_config
from common.language.partition import Partition, save_memory
from common.models.encoder_loading import build_encoder
from common.models.vision_encoder import VisionEncoder
from common.training.engine import deepspeed_config
from common.training.plan import zero_bytes
from understanding.assemble import read_features, start_language_side
from understanding.batches import Batch, collate
from understanding.config import UnderstandingConfig
from understanding.dataset import Sample
from understanding.efficiency import UnderstandingEfficiency
from understanding.model import stated_config
from understanding.objective import LanguageSide
from understanding.sizes import count_parameters

RECIPE = "understanding/recipes/vicuna_7b_256_sft.yaml"
LAYERS = "model.language_model.architecture.num_hidden_layers"
# Share of the memory for weights, gradients and AdamW's states; activations and logits take the rest.
STATES = 0.6
STEPS = 1000  # of the schedule
CHECK = (
    *(f"model.tower.architecture.{field}" for field in ("hidden_size=16", "intermediate_size=32")),
    *(f"model.tower.architecture.{field}" for field in ("num_hidden_layers=1", "num_attention_heads=2")),
    *(f"model.tower.architecture.{field}" for field in ("image_size=16", "patch_size=4")),
    "model.language_model.architecture={model_type: llama, hidden_size: 16, intermediate_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 64}",
    "data.max_length=48",
)


def measure(request: Request) -> list[Row]:
    device = dist.start()
    config = recipe(request, device)
    torch.manual_seed(config.seed)
    settings = deepspeed_config(
        config.engine, config.batch, dist.world(), config.optimizer.adamw.max_grad_norm
    )
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    with device:
        tower = build_encoder(config.model.tower.architecture, config.model.attn_implementation)
    tower = tower.to(device, dtype).requires_grad_(False).eval()
    side = random_side(config, settings, device, dtype)
    batch = random_batch(config, side)
    step = training_step(config, side, settings, tower, batch)
    counts = UnderstandingEfficiency(config.model, device).count(batch)
    layers = config.model.language_model.architecture["num_hidden_layers"]
    return [
        time_steps(
            f"understanding, Vicuna-7B with {layers} layers, {config.data.max_length} tokens",
            step,
            device,
            unit="tokens",
            amount=counts["tokens"],
            batch=config.batch.micro_size,
            flops=counts["flops"],
            note=f"random weights and tokens, all of it learns; ZeRO-{config.engine.zero_stage}, "
            "layers as many as fit",
            check=request.check,
        )
    ]


def recipe(request: Request, device: torch.device) -> UnderstandingConfig:
    """The paper's, on one GPU, without accumulation, with as many layers as have room."""
    stated = load_config(UnderstandingConfig, RECIPE)
    size = 2 if request.check else stated.batch.micro_size // request.shrink
    overrides = ["init_from=null", f"batch.global_size={size}", f"batch.micro_size={size}"]
    if request.check:
        return load_config(UnderstandingConfig, RECIPE, [*overrides, *CHECK])
    room = STATES * torch.cuda.get_device_properties(device).total_memory
    for layers in range(int(stated.model.language_model.architecture["num_hidden_layers"]), 0, -1):
        config = load_config(UnderstandingConfig, RECIPE, [*overrides, f"{LAYERS}={layers}"])
        if state_bytes(config) <= room:
            break
    return config


def state_bytes(config: UnderstandingConfig) -> float:
    """Of weights, gradients and optimizer states, the tower's weights among them."""
    counts, engine = count_parameters(config.model), config.engine
    trained = counts.projector + counts.language_model
    return 2 * counts.tower + zero_bytes(trained, 0, engine.zero_stage, 1, engine.precision)


def random_side(
    config: UnderstandingConfig, settings: dict, device: torch.device, dtype: torch.dtype
) -> LanguageSide:
    """What `build_language_side` makes of a checkpoint, of random weights."""
    with device:
        llava = LlavaForConditionalGeneration._from_config(
            stated_config(config.model), attn_implementation=config.model.attn_implementation, dtype=dtype
        )
    side = LanguageSide(llava)
    if config.engine.zero_stage == 3:
        partition = Partition(settings)
        for parameter in side.parameters():
            partition(parameter)
        save_memory(side)
    if config.engine.activation_checkpointing:
        side.llava.activation_checkpointing_enable({"use_reentrant": False})
    return side


def random_batch(config: UnderstandingConfig, side: LanguageSide) -> Batch:
    """Rows of one picture and text, all as long as the recipe allows."""
    rng = np.random.default_rng(config.seed)
    image, length = config.model.image_tokens, config.data.max_length
    vocabulary = int(config.model.language_model.architecture["vocab_size"])
    size = int(config.model.tower.architecture["image_size"])
    samples = []
    for _ in range(config.batch.micro_size):
        ids = rng.integers(1, vocabulary, length)
        ids[:image] = side.config.image_token_id
        learned = np.arange(length) >= image + (length - image) // 2
        samples.append(Sample(ids, learned, torch.randn(1, 3, size, size)))
    return collate(samples, pad_id=0, no_pixels=torch.zeros(0, 3, size, size), packed=False)


def training_step(
    config: UnderstandingConfig, side: LanguageSide, settings: dict, tower: VisionEncoder, batch: Batch
) -> Callable[[], None]:
    """One optimizer step of `understanding/train.py`."""
    engine = start_language_side(side, config, settings, STEPS)
    share = 1 / len(batch["targets"])

    def step() -> None:
        features = read_features(tower, batch["pixel_values"], config.engine.precision)
        loss, _ = engine(
            batch["input_ids"],
            features,
            batch["predictors"],
            batch["targets"],
            batch["attention_mask"],
            batch["position_ids"],
        )
        engine.backward(loss * share)
        engine.step()

    return step


if __name__ == "__main__":
    run(measure)
