"""InternViT's original checkpoints in the names of `InternVLVisionModel`.

The original stores query, key and value as one matrix and calls its parts differently; nothing is computed.
Names from the published `OpenGVLab/InternViT-300M-448px` and `InternVL` checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

ORIGINAL_TYPES = ("intern_vit_6b", "internvl_chat")

_CONFIG = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_act": "hidden_act",
    "norm_type": "norm_type",
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
}
_EMBEDDINGS = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
_LAYER = {
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "mlp": "mlp",
}


def convert_config(original: dict[str, Any]) -> dict[str, Any]:
    """Fields of an original `config.json` -> fields of `InternVLVisionConfig`, `model_type` included."""
    fields = {ours: original[theirs] for theirs, ours in _CONFIG.items() if theirs in original}
    return {"model_type": "internvl_vision", "use_mean_pooling": True, **fields}


def convert_weights(key: str, read: Callable[[], Tensor]) -> dict[str, Tensor]:
    """One original tensor -> one or three of ours."""
    if key in _EMBEDDINGS:
        return {_EMBEDDINGS[key]: read()}
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", key)
    if match is None:
        return {key: read()}
    layer, rest = f"encoder.layer.{match[1]}", match[2]
    if rest.startswith("attn.qkv."):
        kind = rest.rpartition(".")[2]
        query, key_, value = read().chunk(3)
        return {
            f"{layer}.attention.q_proj.{kind}": query.clone(),
            f"{layer}.attention.k_proj.{kind}": key_.clone(),
            f"{layer}.attention.v_proj.{kind}": value.clone(),
        }
    for theirs, ours in _LAYER.items():
        if rest == theirs or rest.startswith(theirs + "."):
            return {f"{layer}.{ours}{rest[len(theirs) :]}": read()}
    return {key: read()}
