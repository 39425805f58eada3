"""The smallest Mask2Former, also under mmdetection's names, and the smallest CLIP."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from evals.detectors import mmdet_keys
from evals.detectors.coco_classes import CLASSES


def network() -> Any:
    """A Mask2Former of the original's architecture, smaller, with random weights."""
    swin = SwinConfig(
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=48,
        encoder_layers=2,
        decoder_layers=3,
        num_attention_heads=2,
        num_queries=5,
        id2label=dict(enumerate(CLASSES)),
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, else swapped ones would go unseen
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def as_mmdetection(state: dict[str, Tensor], generation: int) -> dict[str, Tensor]:
    """A model's weights under mmdetection's names, written down from its modules' attributes."""
    attention, cross, own, ffn = {
        2: ("attentions.0", "attentions.0", "attentions.1", "ffns.0"),
        3: ("self_attn", "cross_attn", "self_attn", "ffn"),
    }[generation]
    head, pixel = "panoptic_head.", "panoptic_head.pixel_decoder."
    layer, deformable = head + r"transformer_decoder.layers.\1.", pixel + r"encoder.layers.\1."
    block = r"backbone.stages.\1.blocks.\2."
    names = {
        r".*embeddings\.patch_embeddings\.projection": "backbone.patch_embed.projection",
        r".*embeddings\.norm": "backbone.patch_embed.norm",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.layernorm_before": block + "norm1",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.layernorm_after": block + "norm2",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.mlp\.fc1": block + "ffn.layers.0.0",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.mlp\.fc2": block + "ffn.layers.1",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.attention\.o_proj": block + "attn.w_msa.proj",
        r".*swin\.encoder\.layers\.(\d)\.blocks\.(\d)\.attention\.relative_position_bias": block + "attn.w_msa",
        r".*swin\.encoder\.layers\.(\d)\.downsample": r"backbone.stages.\1.downsample",
        r".*hidden_states_norms\.stage(\d)": lambda found: f"backbone.norm{int(found[1]) - 1}",
        r".*input_projections\.(\d)\.0": pixel + r"input_convs.\1.conv",
        r".*input_projections\.(\d)\.1": pixel + r"input_convs.\1.gn",
        r".*decoder\.level_embed$": pixel + "level_encoding.weight",
        r".*adapter_1\.0": pixel + "lateral_convs.0.conv",
        r".*adapter_1\.1": pixel + "lateral_convs.0.gn",
        r".*layer_1\.0": pixel + "output_convs.0.conv",
        r".*layer_1\.1": pixel + "output_convs.0.gn",
        r".*mask_projection": pixel + "mask_feature",
        r".*decoder\.encoder\.layers\.(\d)\.self_attn\.": deformable + attention + ".",
        r".*decoder\.encoder\.layers\.(\d)\.self_attn_layer_norm": deformable + "norms.0",
        r".*decoder\.encoder\.layers\.(\d)\.final_layer_norm": deformable + "norms.1",
        r".*decoder\.encoder\.layers\.(\d)\.fc1": deformable + ffn + ".layers.0.0",
        r".*decoder\.encoder\.layers\.(\d)\.fc2": deformable + ffn + ".layers.1",
        r".*transformer_module\.decoder\.layers\.(\d)\.cross_attn\.": layer + cross + ".attn.",
        r".*transformer_module\.decoder\.layers\.(\d)\.self_attn\.out_proj": layer + own + ".attn.out_proj",
        r".*transformer_module\.decoder\.layers\.(\d)\.cross_attn_layer_norm": layer + "norms.0",
        r".*transformer_module\.decoder\.layers\.(\d)\.self_attn_layer_norm": layer + "norms.1",
        r".*transformer_module\.decoder\.layers\.(\d)\.final_layer_norm": layer + "norms.2",
        r".*transformer_module\.decoder\.layers\.(\d)\.fc1": layer + ffn + ".layers.0.0",
        r".*transformer_module\.decoder\.layers\.(\d)\.fc2": layer + ffn + ".layers.1",
        r".*transformer_module\.decoder\.layernorm": head + "transformer_decoder.post_norm",
        r".*queries_embedder": head + "query_embed",
        r".*queries_features": head + "query_feat",
        r".*transformer_module\.level_embed": head + "level_embed",
        r".*mask_embedder\.(\d)\.0": lambda found: f"{head}mask_embed.{2 * int(found[1])}",
        r"class_predictor": head + "cls_embed",
    }  # fmt: skip
    written: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key in mmdet_keys.NOT_THERE or re.search(r"\.[kv]_proj\.", key):
            continue
        if "q_proj" in key:
            joined = torch.cat([state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
            swin = re.sub(r".*layers\.(\d)\.blocks\.(\d)\.attention\.q_proj", block + "attn.w_msa.qkv", key)
            queries = re.sub(r".*layers\.(\d)\.self_attn\.q_proj\.", layer + own + ".attn.in_proj_", key)
            written[swin if "swin" in key else queries] = joined
            continue
        name = next(re.sub(old, new, key) for old, new in names.items() if re.match(old, key))
        if ".downsample." in key:
            back = tensor.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)
            tensor = back.contiguous()
        written[name] = tensor
    written["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(16, 16)
    return written


def write_clip(folder: Path) -> Path:
    """A random CLIP with its processor and its text tokenizer."""
    letters = [*"abcdefghijklmnopqrstuvwxyz-", *(f"{one}</w>" for one in "abcdefghijklmnopqrstuvwxyz-")]
    vocabulary = {token: index for index, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": len(vocabulary), "eos_token_id": vocabulary["<|endoftext|>"]},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return folder
