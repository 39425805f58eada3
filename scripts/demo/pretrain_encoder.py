"""Train a small SigLIP on the miniature world's pictures and descriptions: the demo's "foundation model".

    python scripts/demo/pretrain_encoder.py --world runs/demo/world --out runs/demo/encoder

What is notable here: it is transformers' own `SiglipModel` with SigLIP's sigmoid loss, learning from random
weights; descriptions name every object's size, colour, shape and place, so that the patch features must hold
them. Only the vision part is kept, as a plain `SiglipVisionModel` folder: the rest of the demo treats it as it
would treat a downloaded encoder. Loss: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from captions import describe
from probe import encode, fit_probe
from scenes import COLORS, SHAPES, Scene
from tqdm import trange
from world import World, read_world

from common.errors import UserError, run_cli

if TYPE_CHECKING:
    from transformers import SiglipModel

# Word-level: words that tell nothing here (a, photo, of, at, the, and ...) are left out. 0 pads.
WORDS = ("large", "small", *COLORS, *SHAPES, "top", "bottom", "left", "right", "center")
TOKEN = {word: number for number, word in enumerate(WORDS, start=1)}
TEXT_LENGTH = 21  # four objects of at most five words; the last position, always padding, is pooled

PATCH = 4
WIDTH, LAYERS, HEADS = 128, 4, 4
TEXT_LAYERS = 2


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    """(B, TEXT_LENGTH) int64."""
    ids = torch.zeros(len(texts), TEXT_LENGTH, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        tokens = [TOKEN[word] for word in text.replace(",", "").split() if word in TOKEN]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def build_model(image_size: int) -> SiglipModel:
    """A SigLIP of miniature size, started at random; the sigmoid loss starts at the paper's scale and bias."""
    from transformers import SiglipConfig, SiglipModel

    shared = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    vision = {**shared, "num_hidden_layers": LAYERS, "image_size": image_size, "patch_size": PATCH}
    text = {
        **shared,
        "num_hidden_layers": TEXT_LAYERS,
        "vocab_size": len(TOKEN) + 1,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_size": WIDTH,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    # Eager attention: on a CPU, with 64 tokens, nearly twice as fast a step as sdpa under bfloat16 autocast.
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text, attn_implementation="eager"))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
    return model


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1], as the saved image processor does (mean and std 0.5)."""
    return images.float() / 127.5 - 1


@torch.inference_mode()
def retrieval_accuracy(model: SiglipModel, world: World) -> float:
    """Share of pictures whose own description scores highest among all of the split's."""
    texts = tokenize([record["description"] for record in world.records])
    output = model(input_ids=texts, pixel_values=to_pixels(world.images))
    best = output.logits_per_image.argmax(1)
    # Two scenes may share a description: naming either is right.
    return float((texts[best] == texts).all(1).float().mean())


def train(
    model: SiglipModel, world: World, *, steps: int, batch: int, lr: float, seed: int, bf16: bool
) -> float:
    """Contrastive training; the mean loss over the last tenth of the steps.

    A description's order is drawn anew each time a scene is seen.
    """
    rng = np.random.default_rng([seed, 1])
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    warmup = max(1, steps // 10)
    losses: list[float] = []
    order = np.empty(0, int)
    model.train()
    progress = trange(steps, desc="contrastive pretraining", unit="step")
    for step in progress:
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(world.scenes))])
        picked, order = order[:batch], order[batch:]
        scenes: list[Scene] = [world.scenes[i] for i in picked]
        rate = (step + 1) / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(rate, 1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(
                input_ids=tokenize([describe(scene, rng) for scene in scenes]),
                pixel_values=to_pixels(world.images[torch.from_numpy(picked)]),
                return_loss=True,
            )
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(output.loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


def save_vision_part(model: SiglipModel, folder: Path, image_size: int) -> None:
    """A plain `SiglipVisionModel` folder with its image processor's configuration."""
    from transformers import SiglipVisionModel

    vision = SiglipVisionModel(model.config.vision_config)
    vision.load_state_dict(model.vision_model.state_dict())
    vision.save_pretrained(folder)
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": image_size, "width": image_size},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", type=Path, required=True, help="folder written by make_world.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the encoder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="default: bfloat16 where the CPU has it"
    )
    options = parser.parse_args()
    if min(options.steps, options.batch) < 1:
        raise UserError("--steps and --batch: expected at least 1")
    world, held_out = (read_world(options.world, split) for split in ("train", "val"))
    bf16 = options.precision == "bfloat16" or (
        options.precision is None and torch.cpu._is_avx512_bf16_supported()
    )
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    image_size = world.images.shape[-1]
    model = build_model(image_size)
    loss = train(
        model, world, steps=options.steps, batch=options.batch, lr=options.lr, seed=options.seed, bf16=bf16
    )
    seconds = time.perf_counter() - start
    save_vision_part(model, options.out, image_size)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        return model.vision_model(pixels * 2 - 1, output_hidden_states=True).hidden_states[-1]

    probe = fit_probe(encode(features, world.images[:2000]), world.scenes[:2000])
    accuracy = probe.accuracy(encode(features, held_out.images), held_out.scenes)
    retrieval = retrieval_accuracy(model, held_out)
    result = {
        "retrieval": retrieval,
        "retrieval_among": len(held_out.scenes),
        "probe": accuracy,
        "loss": loss,
        "steps": options.steps,
        "batch": options.batch,
        "seed": options.seed,
        "precision": "bfloat16" if bf16 else "float32",
        "seconds": round(seconds, 1),
    }
    (options.out / "pretraining.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"encoder: {retrieval:.1%} of {len(held_out.scenes)} held-out pictures find their description; linear probe "
        f"shape {accuracy['shape']:.1%}, color {accuracy['color']:.1%}; {seconds:.0f} s"
    )


if __name__ == "__main__":
    run_cli(main)
