"""mPLUG's released files: where they are, what they say, and their tensors by transformers' names.

DIR/configuration.json   modelscope's: the task
DIR/config.yaml          sizes of the vision tower, of the search, and the name of the BERT config
DIR/config_bert.json     sizes of all BERT layers, and how many read, fuse and answer
DIR/vocab.txt            BERT's uncased vocabulary
DIR/pytorch_model.bin    the weights; nothing in it is executed
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor
from transformers.initialization import no_init_weights

from common.errors import UserError, refusing
from common.models.weight_files import read_config_json
from evals.dpg.mplug.beam import Search
from evals.dpg.mplug.model import Architecture, Mplug
from evals.dpg.mplug.released import MODELSCOPE, SETTINGS, TASK, WEIGHTS

# CLIP's own names within `visual_encoder.visual.`, and transformers'.
VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.": "embeddings.patch_embedding.",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
}
VISION_LAYER = {
    "attn.in_proj_": "self_attn.[qkv]_proj.",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
# What nothing reads: averages that training distils from, CLIP's text tower and projection, counted positions, and a
# bias that stands there twice.
UNREAD = re.compile(
    r"^(visual_encoder|text_encoder|fusion_encoder|text_decoder|visn_fc|visn_layer_norm)_m\."
    r"|^visual_encoder\.(?!visual\.)|^visual_encoder\.visual\.proj$|\.position_ids$|\.predictions\.decoder\.bias$"
)
# The decoder's last matrix is its embedding.
TIED = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}


def read_settings(folder: Path) -> tuple[Architecture, Search]:
    """What the configs say.

    Raises:
        UserError: one is absent or damaged, it is another task's mPLUG, or a field is not what it should be.
    """
    task = read_config_json(folder, MODELSCOPE).get("task")
    if task != TASK:
        raise UserError(f"{folder / MODELSCOPE}: task: expected {TASK!r}, found {task!r}")
    with refusing(f"{folder / SETTINGS}: cannot be read", OSError, ValueError, yaml.YAMLError):
        stated = yaml.safe_load((folder / SETTINGS).read_text(encoding="utf-8"))
    if not isinstance(stated, dict):
        raise UserError(f"{folder / SETTINGS}: expected fields and their values")
    bert_file = folder / str(stated.get("bert_config", "config_bert.json"))
    bert = read_config_json(folder, bert_file.name)
    patch = 16 if "ViT-B-16" in str(stated.get("clip_name", "ViT-L-14")) else 14
    with refusing(
        f"{folder}: {SETTINGS}, {bert_file.name}: missing or no number",
        KeyError,
        TypeError,
        ValueError,
    ):
        search = Search(
            beams=int(stated.get("beam_size", Search.beams)),
            shortest=int(stated.get("min_length", Search.shortest)),
            longest=int(stated.get("max_length", Search.longest)),
        )
        architecture = Architecture(
            image_size=int(stated.get("image_res", Architecture.image_size)),
            patch_size=int(stated.get("clip_vision_patch_size", patch)),
            vision_layers=int(stated.get("clip_vision_layers", Architecture.vision_layers)),
            vision_width=int(stated.get("clip_vision_width", Architecture.vision_width)),
            text_layers=int(bert["text_encoder_layers"]),
            # Where there are more layers, the first ones are not run.
            fusion_layers=min(int(bert["fusion_layers"]), int(bert["num_hidden_layers"])),
            decoder_layers=int(bert["text_decode_layers"]),
            stride=int(bert.get("stride_layer", 100)),
            bert=bert,
        )
    return architecture, search


def load(folder: Path) -> tuple[Mplug, Search, Architecture]:
    """The model of a folder, in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: a file is absent or damaged, or weights are not those of the configs: missing, surplus, misshapen.
    """
    architecture, search = read_settings(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: absent")
    with refusing(f"{path}: cannot be read as weights"):
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        for wrapping in ("model", "module"):
            stored = stored.get(wrapping, stored)
    with refusing(path, UserError):
        first = int(architecture.bert["num_hidden_layers"]) - architecture.fusion_layers
        state = renamed(stored, first)
    with refusing(f"{folder}: no network of these sizes", ValueError, TypeError), no_init_weights():
        model = Mplug(architecture)
    model.text_decoder.tie_weights()
    # Shapes may differ.
    with refusing(f"{path}: not the network of {SETTINGS}", RuntimeError):
        missing, surplus = model.load_state_dict(state, strict=False)
    misfits = [f"{key}: missing" for key in missing if key not in TIED] + [
        f"{key}: unknown" for key in surplus
    ]
    if misfits:
        raise UserError(f"{path}: {misfits[0]} ({len(misfits)} such in all)")
    return model.eval(), search, architecture


def renamed(stored: Mapping[str, Tensor], first_fusion_layer: int) -> dict[str, Tensor]:
    """The tensors that are read, by the names of `Mplug`."""
    state: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix("model.")
        if UNREAD.search(name):
            continue
        if found := re.match(r"fusion_encoder\.encoder\.layer\.(\d+)\.", name):
            number = int(found[1]) - first_fusion_layer
            if number >= 0:
                state[f"fusion.{number}.{name[found.end() :]}"] = tensor
        elif name.startswith("visual_encoder.visual."):
            name = "vision." + _vision_name(name.removeprefix("visual_encoder.visual."))
            if "[qkv]" in name:
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    state[name.replace("[qkv]", letter)] = part
            else:
                state[name] = tensor
        else:
            state[name] = tensor
    return state


def _vision_name(name: str) -> str:
    """transformers' name; an unknown one stays as it is, and is then refused."""
    layer = re.match(r"transformer\.resblocks\.(\d+)\.", name)
    start, rest = (f"encoder.layers.{layer[1]}.", name[layer.end() :]) if layer else ("", name)
    for theirs, ours in (VISION_LAYER if layer else VISION).items():
        if rest.startswith(theirs):
            return start + ours + rest.removeprefix(theirs)
    return name
