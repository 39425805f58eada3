"""How the folders that others load are written: in the format of the hub's own checkpoints.

transformers 5 reads that format and writes another. Versions before it, and engines that serve its classes, then find
a tower's weights under strange names, take the default for a rotary base they look for elsewhere, or know no class for
a text tokenizer; most of it without a word. What training leaves for others goes through here: names of weights,
config.json, text tokenizer and processor, as transformers 4 wrote them and every version reads them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from common.files import obeying_umask, write_json
from common.language.frozen_tokenizer import freeze
from common.models.weight_files import read_config_json

# SigLIP's class was once a shell around its transformer; the hub's names, and all but the newest readers, still say so.
PREFIXES = {"siglip_vision_model": "vision_model."}
POOLING_HEAD = "head."
"""Of SigLIP, behind all features that are read here. Engines that find one pool with it."""


def read_tensors(tower: Any) -> dict[str, Tensor]:
    """The tensors of a vision tower of transformers under its own names, without a pooling head."""
    return {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith(POOLING_HEAD)}


def tower_tensors(tower: Any) -> dict[str, Tensor]:
    """The same under the names that they have in a file; inside a larger model, behind that model's prefix."""
    prefix = PREFIXES.get(tower.config.model_type, "")
    return {prefix + name: tensor for name, tensor in read_tensors(tower).items()}


def tower_config(config: Any) -> Any:
    """A copy of a tower's config that announces no pooling head."""
    config = copy.deepcopy(config)
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    return config


def save_tower(folder: str | Path, tower: Any, image_processor: Any) -> None:
    """Write a vision tower of transformers as a plain folder, with its image processor beside it."""
    folder = Path(folder)
    config = tower_config(tower.config)
    config.architectures, config.dtype = [type(tower).__name__], tower.dtype
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tower_tensors(tower).items()}
    with obeying_umask(folder):
        config.save_pretrained(folder)
        restate_config(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        save_image_processor(folder, image_processor)


def save_language_model(folder: str | Path, model: Any, text_tokenizer: Any) -> None:
    """Write a `...ForCausalLM` with its text tokenizer."""
    with obeying_umask(folder):
        model.save_pretrained(folder)
        restate_config(Path(folder))
        save_text_tokenizer(Path(folder), text_tokenizer)


def restate_config(folder: Path) -> None:
    """Rewrite the `config.json` that transformers has saved in `folder`.

    Each part names its class, and rotary embeddings stand under the keys of transformers 4 (`rope_theta`,
    `partial_rotary_factor`, `rope_scaling`) too.
    """
    saved = read_config_json(folder)
    stated = copy.deepcopy(saved)
    for part in (stated, stated.get("text_config"), stated.get("vision_config")):
        if part:
            _restate(part)
    if stated != saved:
        write_json(folder / "config.json", stated, sort_keys=True)


def _restate(part: dict[str, Any]) -> None:
    kind = part.get("model_type")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind) or MODEL_MAPPING_NAMES.get(kind)
    if not part.get("architectures") and isinstance(known, str):
        part["architectures"] = [known]
    rotary = part.get("rope_parameters")
    if not isinstance(rotary, dict) or "rope_theta" not in rotary:
        return  # none, or one for each kind of layer, which transformers 4 states in ways of each model's own
    scaling = dict(rotary)
    for field in ("rope_theta", "partial_rotary_factor"):
        if field in scaling:
            part[field] = scaling.pop(field)
    part["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None


def save_text_tokenizer(folder: Path, text_tokenizer: Any) -> None:
    """Write `tokenizer.json` and the few settings it does not hold, for the class that takes the former as it stands.

    So ids are everywhere those of the tokenizer in memory: a model's own class would build its rules anew from
    settings, which differ between versions.
    """
    if not text_tokenizer.is_fast:
        text_tokenizer.save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    rules = freeze(text_tokenizer).backend_tokenizer
    rules.save(str(folder / "tokenizer.json"))
    named = dict(text_tokenizer.special_tokens_map)
    own = {name: named.pop(name) for name in set(named) - set(text_tokenizer.SPECIAL_TOKENS_ATTRIBUTES)}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        # Asked for by name, since transformers 4 would give this class Bert's token_type_ids too.
        "model_input_names": list(text_tokenizer.model_input_names),
        "model_max_length": text_tokenizer.model_max_length,
        "padding_side": text_tokenizer.padding_side,
        "truncation_side": text_tokenizer.truncation_side,
        "clean_up_tokenization_spaces": False,
        **named,
    }
    if own:
        settings["extra_special_tokens"] = own  # by name, such as a model's image token
    # transformers 4 sets this on a pre-tokenizer that has it, to False where nothing is said.
    split = json.loads(rules.to_str())["pre_tokenizer"] or {}
    if "add_prefix_space" in split:
        settings["add_prefix_space"] = split["add_prefix_space"]
    if text_tokenizer.extra_special_tokens:
        settings["additional_special_tokens"] = list(map(str, text_tokenizer.extra_special_tokens))
    settings, _ = text_tokenizer.save_chat_templates(str(folder), settings, None, True)
    write_json(folder / "tokenizer_config.json", settings, sort_keys=True, ensure_ascii=False)


def save_processor(folder: Path, processor: Any) -> None:
    """Write a processor of images and text: each of its parts in the file that every version looks for it in."""
    fields = processor.to_dict()
    for part in ("image_processor", "tokenizer", "chat_template"):
        fields.pop(part, None)
    write_json(folder / "processor_config.json", fields, sort_keys=True)
    save_image_processor(folder, processor.image_processor)
    save_text_tokenizer(folder, processor.tokenizer)


def save_image_processor(folder: Path, image_processor: Any) -> None:
    """Write `preprocessor_config.json`.

    What transformers 5 calls XImageProcessor was XImageProcessorFast in 4, and X there another, whose resized pixels
    differ by rounding; the former name is understood in both.
    """
    image_processor.save_pretrained(folder)
    name = "preprocessor_config.json"
    stated = read_config_json(folder, name)
    stated["image_processor_type"] = stated["image_processor_type"].removesuffix("Fast") + "Fast"
    write_json(folder / name, stated, sort_keys=True)
