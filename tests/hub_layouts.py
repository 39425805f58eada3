"""Checkpoints laid out as the hub's, with random weights.

Files, names, precision and settings are those of the published folders; none of it is written by this project or by
today's `save_pretrained`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from hub_tokenizers import (
    INTERNVL_SPECIAL,
    write_json,
    write_qwen_text_tokenizer,
    write_vicuna_text_tokenizer,
)
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
HIDDEN = 16
INNER = 32
PADDED = 7  # rows of the embedding behind the text vocabulary, as Qwen has them


def write_vicuna(folder: Path, legacy: bool | None = False, weights: str = "bin") -> dict[str, Any]:
    """lmsys/vicuna-7b-v1.5: float16 in two files, and no `tokenizer.json`; its architecture.

    Args:
        weights: `bin`, as published, with the buffers of 2023; or `safetensors`.
    """
    text_vocabulary = write_vicuna_text_tokenizer(folder, legacy)
    architecture = _language_model("llama", text_vocabulary, heads=2, key_value_heads=2)
    write_json(
        folder / "config.json",
        {
            "_name_or_path": "vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 4096,
            **architecture,
            "pad_token_id": 0,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.31.0",
            "use_cache": True,
        },
    )
    sampling = {"max_length": 4096, "temperature": 0.9, "top_p": 0.6}
    tokens = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    write_json(folder / "generation_config.json", {**tokens, **sampling, "transformers_version": "4.31.0"})
    tensors = _random(_language_shapes(architecture), torch.float16)
    if weights == "bin":
        frequencies = 10000.0 ** (-torch.arange(0, HIDDEN // 2, 2) / (HIDDEN // 2))
        for layer in range(architecture["num_hidden_layers"]):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = frequencies.clone()
    _write_weights(folder, tensors, weights, files=2)
    return architecture


def write_qwen(
    folder: Path, kind: str = "qwen2", tied: bool = False, head_beside: bool = False
) -> dict[str, Any]:
    """Qwen/Qwen2.5-7B-Instruct (qwen2) or Qwen/Qwen3-0.6B (qwen3), bfloat16; its architecture.

    Args:
        tied: the head is the embedding.
        head_beside: the file holds the head all the same, as Qwen3-0.6B's does.
    """
    text_vocabulary = write_qwen_text_tokenizer(folder, kind)
    architecture = _language_model(kind, text_vocabulary + PADDED, heads=4, key_value_heads=2)
    if kind == "qwen3":
        architecture["head_dim"] = 8  # wider than hidden_size / heads
    architecture["tie_word_embeddings"] = tied
    write_json(folder / "config.json", _qwen_config(architecture))
    write_json(
        folder / "generation_config.json",
        {
            "do_sample": True,
            "eos_token_id": [text_vocabulary - 12, text_vocabulary - 14],
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "transformers_version": "4.51.0",
        },
    )
    tensors = _random(_language_shapes(architecture), torch.bfloat16)
    if tied and not head_beside:
        del tensors["lm_head.weight"]
    elif tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    _write_weights(folder, tensors, "safetensors", files=1 if kind == "qwen3" else 3)
    return architecture


def write_siglip2(folder: Path, size: int = 16, patch: int = 4) -> dict[str, Any]:
    """google/siglip2-so400m-patch16-256: both towers in one file; its vision tower's architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    vision = {**sizes, "image_size": size, "patch_size": patch, "model_type": "siglip_vision_model"}
    text = {"model_type": "siglip_text_model", "projection_size": HIDDEN, "vocab_size": 50, **sizes}
    write_json(
        folder / "config.json",
        {
            "architectures": ["SiglipModel"],
            "initializer_factor": 1.0,
            "model_type": "siglip",
            "text_config": {**text, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 64},
            "torch_dtype": "float32",
            "transformers_version": "4.47.0.dev0",
            "vision_config": vision,
        },
    )
    half = [0.5, 0.5, 0.5]
    write_json(
        folder / "preprocessor_config.json",
        {
            **{"do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True},
            **{"image_mean": half, "image_processor_type": "SiglipImageProcessor", "image_std": half},
            **{"processor_class": "SiglipProcessor", "resample": 2, "rescale_factor": 0.00392156862745098},
            "size": {"height": size, "width": size},
        },
    )
    shapes: Shapes = {"logit_scale": (1,), "logit_bias": (1,)}
    shapes |= {
        "text_model.embeddings.token_embedding.weight": (50, HIDDEN),
        "text_model.embeddings.position_embedding.weight": (64, HIDDEN),
        "text_model.final_layer_norm.weight": (HIDDEN,),
        "text_model.final_layer_norm.bias": (HIDDEN,),
        "text_model.head.weight": (HIDDEN, HIDDEN),
        "text_model.head.bias": (HIDDEN,),
        "vision_model.embeddings.patch_embedding.weight": (HIDDEN, 3, patch, patch),
        "vision_model.embeddings.patch_embedding.bias": (HIDDEN,),
        "vision_model.embeddings.position_embedding.weight": ((size // patch) ** 2, HIDDEN),
        "vision_model.post_layernorm.weight": (HIDDEN,),
        "vision_model.post_layernorm.bias": (HIDDEN,),
        "vision_model.head.probe": (1, 1, HIDDEN),
        "vision_model.head.attention.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "vision_model.head.attention.in_proj_bias": (3 * HIDDEN,),
        "vision_model.head.attention.out_proj.weight": (HIDDEN, HIDDEN),
        "vision_model.head.attention.out_proj.bias": (HIDDEN,),
        **_norm("vision_model.head.layernorm"),
        **_mlp("vision_model.head.mlp"),
    }
    for tower in ("text_model", "vision_model"):
        for layer in range(2):
            name = f"{tower}.encoder.layers.{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= _linear(f"{name}.self_attn.{part}", HIDDEN, HIDDEN)
            shapes |= {**_norm(f"{name}.layer_norm1"), **_norm(f"{name}.layer_norm2"), **_mlp(f"{name}.mlp")}
    _write_weights(folder, _random(shapes, torch.float32), "safetensors", files=1)
    return {
        **vision,
        "hidden_act": "gelu_pytorch_tanh",
    }  # the class' default, which the folder does not state


def write_internvl(folder: Path, size: int = 28, patch: int = 7) -> dict[str, Any]:
    """OpenGVLab/InternVL3-8B-hf: tower, projector and Qwen2.5, bfloat16 in several files; its tower's architecture."""
    text_vocabulary = write_qwen_text_tokenizer(folder, "qwen2", INTERNVL_SPECIAL)
    text = _language_model("qwen2", text_vocabulary + PADDED, heads=4, key_value_heads=2)
    text["tie_word_embeddings"] = False
    tower = _internvit_sizes(size, patch)
    tokens = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    image_token = next(int(index) for index, token in tokens.items() if token["content"] == "<IMG_CONTEXT>")
    write_json(
        folder / "config.json",
        {
            "architectures": ["InternVLForConditionalGeneration"],
            "downsample_ratio": 0.5,
            "image_seq_length": (size // patch) ** 2 // 4,
            "image_token_id": image_token,
            "model_type": "internvl",
            "projector_hidden_act": "gelu",
            "text_config": _qwen_config(text),
            "torch_dtype": "bfloat16",
            "transformers_version": "4.52.0.dev0",
            "vision_config": {
                **tower,
                "architectures": ["InternVLVisionModel"],
                "attention_bias": True,
                "attention_dropout": 0.0,
                "hidden_dropout_prob": 0.0,
                "image_size": [size, size],
                "initializer_factor": 1.0,
                "initializer_range": 1e-10,
                "layer_scale_init_value": 0.1,
                "model_type": "internvl_vision",
                "norm_type": "layer_norm",
                "num_channels": 3,
                "patch_size": [patch, patch],
                "projection_dropout": 0.0,
                "use_absolute_position_embeddings": True,
                "use_mask_token": False,
                "use_mean_pooling": True,
                "use_qk_norm": False,
            },
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            **{"crop_size": None, "crop_to_patches": False, "do_center_crop": None, "do_convert_rgb": True},
            **{"do_normalize": True, "do_rescale": True, "do_resize": True, "default_to_square": True},
            **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
            **{"image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": 12, "min_patches": 1},
            **{"processor_class": "InternVLProcessor", "resample": 3, "rescale_factor": 0.00392156862745098},
            "size": {"height": size, "width": size},
        },
    )
    write_json(
        folder / "processor_config.json",
        {"image_seq_length": (size // patch) ** 2 // 4, "processor_class": "InternVLProcessor"},
    )
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    video = {"video_token": "<|video_pad|>"}
    tokenizer_config |= {**special, **video, "processor_class": "InternVLProcessor"}
    tokenizer_config["extra_special_tokens"] = {**special, **video}
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for content in message['content'] %}"
        "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
        "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
        "{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
    )
    shapes: Shapes = {f"language_model.{name}": shape for name, shape in _language_shapes(text).items()}
    shapes |= {
        **_norm("multi_modal_projector.layer_norm", 4 * HIDDEN),
        **_linear("multi_modal_projector.linear_1", HIDDEN, 4 * HIDDEN),
        **_linear("multi_modal_projector.linear_2", HIDDEN, HIDDEN),
        "vision_tower.embeddings.cls_token": (1, 1, HIDDEN),
        "vision_tower.embeddings.patch_embeddings.projection.weight": (HIDDEN, 3, patch, patch),
        "vision_tower.embeddings.patch_embeddings.projection.bias": (HIDDEN,),
        "vision_tower.embeddings.position_embeddings": (1, 1 + (size // patch) ** 2, HIDDEN),
    }
    for layer in range(2):
        name = f"vision_tower.encoder.layer.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "projection_layer"):
            shapes |= _linear(f"{name}.attention.{part}", HIDDEN, HIDDEN)
        shapes |= {f"{name}.lambda_1": (HIDDEN,), f"{name}.lambda_2": (HIDDEN,), **_mlp(f"{name}.mlp")}
        shapes |= {**_norm(f"{name}.layernorm_before"), **_norm(f"{name}.layernorm_after")}
    _write_weights(folder, _random(shapes, torch.bfloat16), "safetensors", files=4)
    return {**tower, "model_type": "internvl_vision", "attention_bias": True}


def write_internvit(folder: Path, size: int = 28, patch: int = 7) -> dict[str, Any]:
    """OpenGVLab/InternViT-300M-448px, the original, with the names of its own modelling file; the architecture as a
    recipe states it."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = _internvit_sizes(size, patch)
    write_json(
        folder / "config.json",
        {
            "architectures": ["InternVisionModel"],
            "attention_dropout": 0.0,
            "auto_map": {
                "AutoConfig": "configuration_intern_vit.InternVisionConfig",
                "AutoModel": "modeling_intern_vit.InternVisionModel",
            },
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            **sizes,
            "initializer_factor": 0.1,
            "initializer_range": 1e-10,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_channels": 3,
            "qk_normalization": False,
            "qkv_bias": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.37.2",
            "use_bfloat16": True,
            "use_flash_attn": True,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            **{"crop_size": size, "do_center_crop": True, "do_normalize": True, "do_resize": True},
            **{"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": size},
            **{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        },
    )
    shapes: Shapes = {
        "embeddings.class_embedding": (1, 1, HIDDEN),
        "embeddings.patch_embedding.weight": (HIDDEN, 3, patch, patch),
        "embeddings.patch_embedding.bias": (HIDDEN,),
        "embeddings.position_embedding": (1, 1 + (size // patch) ** 2, HIDDEN),
    }
    for layer in range(2):
        name = f"encoder.layers.{layer}"
        shapes |= {f"{name}.ls1": (HIDDEN,), f"{name}.ls2": (HIDDEN,)}
        shapes |= {
            **_linear(f"{name}.attn.qkv", 3 * HIDDEN, HIDDEN),
            **_linear(f"{name}.attn.proj", HIDDEN, HIDDEN),
        }
        shapes |= {**_norm(f"{name}.norm1"), **_norm(f"{name}.norm2"), **_mlp(f"{name}.mlp")}
    _write_weights(folder, _random(shapes, torch.bfloat16), "safetensors", files=1)
    return {**sizes, "model_type": "internvl_vision", "attention_bias": True}


def _internvit_sizes(size: int, patch: int) -> dict[str, Any]:
    return {
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "image_size": size,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-06,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": patch,
    }


def _language_model(kind: str, rows: int, heads: int, key_value_heads: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": rows,
    }


def _qwen_config(architecture: dict[str, Any]) -> dict[str, Any]:
    name = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[architecture["model_type"]]
    return {
        "architectures": [name],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40960 if name.startswith("Qwen3") else 32768,
        "max_window_layers": architecture["num_hidden_layers"],
        **({"attention_bias": False} if name.startswith("Qwen3") else {}),
        **architecture,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
    }


def _language_shapes(architecture: dict[str, Any]) -> Shapes:
    kind, rows = architecture["model_type"], architecture["vocab_size"]
    width = architecture.get("head_dim", HIDDEN // architecture["num_attention_heads"])
    queries = width * architecture["num_attention_heads"]
    keys = width * architecture["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (rows, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes["lm_head.weight"] = (rows, HIDDEN)
    for layer in range(architecture["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for part, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            shapes[f"{name}.self_attn.{part}.weight"] = (outputs, HIDDEN)
            if kind == "qwen2":
                shapes[f"{name}.self_attn.{part}.bias"] = (outputs,)
            elif kind == "qwen3" and part != "v_proj":
                shapes[f"{name}.self_attn.{part[0]}_norm.weight"] = (width,)
        shapes[f"{name}.self_attn.o_proj.weight"] = (HIDDEN, queries)
        shapes |= {f"{name}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{name}.{part}_layernorm.weight": (HIDDEN,) for part in ("input", "post_attention")}
    return shapes


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int = HIDDEN) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _mlp(name: str) -> Shapes:
    return {**_linear(f"{name}.fc1", INNER, HIDDEN), **_linear(f"{name}.fc2", HIDDEN, INNER)}


def _random(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights that have an opinion: matrices near the identity's scale, gains near one."""
    generator = torch.Generator().manual_seed(len(shapes))
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        is_gain = len(shape) == 1 and name.endswith(("weight", "ls1", "ls2", "lambda_1", "lambda_2"))
        tensors[name] = (1 + 0.1 * values if is_gain else 0.3 * values).to(dtype)
    return tensors


def _write_weights(folder: Path, tensors: dict[str, Tensor], kind: str, files: int) -> None:
    """One file, or several with the index that names them; as the hub's are called."""
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number in range(files):
        part = {name: tensors[name] for name in names[number::files]}
        file = f"{stem}.{ending}" if files == 1 else f"{stem}-{number + 1:05d}-of-{files:05d}.{ending}"
        if kind == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    if files > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        write_json(folder / f"{stem}.{ending}.index.json", index)
