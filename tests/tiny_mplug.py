"""The smallest mPLUG in the released layout: random weights by their released names, or one that says yes or no."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.mplug.layout import SHALLOW, Sizes, vocabulary, write_layout
from benchmarks.mplug.random_weights import EMBEDDINGS, SEP, fill

VISION = 1024


def write_mplug(folder: Path, opinionated: bool = False) -> Path:
    """Writes `folder` and returns it; what is read there has the numbers that modelscope's class was given too.

    Args:
        opinionated: it says yes or no, whichever its random numbers prefer, and nothing else.
    """
    write_layout(folder, SHALLOW)
    state = released_tensors()
    if opinionated:
        words, bias = vocabulary(SHALLOW.words), state["text_decoder.cls.predictions.bias"].clone()
        state["text_decoder.cls.predictions.bias"] = bias
        bias[[words.index("yes"), words.index("no")]] += 10
        bias[SEP] += 20
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def released_tensors() -> dict[str, Tensor]:
    """All that the released file has, but of CLIP's text tower and of the averages only a sample each. A new dict."""
    return dict(_tensors())


@cache
def _tensors() -> dict[str, Tensor]:
    state = {name: torch.empty(*shape) for name, shape in _shapes(SHALLOW)}
    fill(state)
    state["text_decoder.cls.predictions.decoder.weight"] = state[EMBEDDINGS]
    state["text_decoder.cls.predictions.decoder.bias"] = state["text_decoder.cls.predictions.bias"]
    for part in ("text_encoder", "text_decoder.bert"):
        state[f"{part}.embeddings.position_ids"] = torch.arange(512)[None]
    state["visual_encoder.ln_final.weight"] = state["visual_encoder_m.visual.ln_pre.bias"] = torch.ones(8)
    return state


def _shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = sizes.width
    yield from _vision("visual_encoder.visual", sizes)
    yield from _linear("visn_fc", VISION, width)
    yield from _norm("visn_layer_norm", width)
    yield from _embeddings("text_encoder", sizes)
    for number in range(sizes.text_layers):
        yield from _layer(f"text_encoder.encoder.layer.{number}", width, crossing=False)
    yield from _embeddings("text_decoder.bert", sizes)
    for number in range(sizes.layers):
        yield from _layer(f"fusion_encoder.encoder.layer.{number}", width, crossing=True)
        yield from _layer(f"text_decoder.bert.encoder.layer.{number}", width, crossing=True)
    yield from _linear("text_decoder.cls.predictions.transform.dense", width, width)
    yield from _norm("text_decoder.cls.predictions.transform.LayerNorm", width)
    yield "text_decoder.cls.predictions.bias", (sizes.words,)


def _vision(tower: str, sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{tower}.class_embedding", (VISION,)
    yield f"{tower}.positional_embedding", ((sizes.image_size // 14) ** 2 + 1, VISION)
    yield f"{tower}.proj", (VISION, 768)
    yield f"{tower}.conv1.weight", (VISION, 3, 14, 14)
    for name in ("ln_pre", "ln_post"):
        yield from _norm(f"{tower}.{name}", VISION)
    for number in range(sizes.vision_layers):
        block = f"{tower}.transformer.resblocks.{number}"
        yield f"{block}.attn.in_proj_weight", (3 * VISION, VISION)
        yield f"{block}.attn.in_proj_bias", (3 * VISION,)
        yield from _linear(f"{block}.attn.out_proj", VISION, VISION)
        yield from _linear(f"{block}.mlp.c_fc", VISION, 4 * VISION)
        yield from _linear(f"{block}.mlp.c_proj", 4 * VISION, VISION)
        for name in ("ln_1", "ln_2"):
            yield from _norm(f"{block}.{name}", VISION)


def _embeddings(part: str, sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, rows in (("word", sizes.words), ("position", 512), ("token_type", 2)):
        yield f"{part}.embeddings.{name}_embeddings.weight", (rows, sizes.width)
    yield from _norm(f"{part}.embeddings.LayerNorm", sizes.width)


def _layer(layer: str, width: int, crossing: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    for attention in ("attention", "crossattention") if crossing else ("attention",):
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{layer}.{attention}.{name}", width, width)
        yield from _norm(f"{layer}.{attention}.output.LayerNorm", width)
    yield from _linear(f"{layer}.intermediate.dense", width, 4 * width)
    yield from _linear(f"{layer}.output.dense", 4 * width, width)
    yield from _norm(f"{layer}.output.LayerNorm", width)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
