"""Where the weights of the language side stand: which tensor of which file fills which parameter, strictly.

The model is built without memory; then each parameter is read, filled and, under ZeRO-3, partitioned before the next
one is touched (see `understanding/filling.py`). Nothing has to be patched for that, neither in torch nor in
transformers, and the same few lines serve every ZeRO stage, with adapters or without.
"""

from __future__ import annotations

import copy

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
)
from transformers.core_model_loading import revert_weight_conversion

from common.errors import UserError, refusing
from common.models.weight_files import StoredTensor, read_config_json, resolve_folder, stored_tensors
from understanding.model import check_language_model, skeleton

PROJECTOR, LANGUAGE_MODEL, HEAD = "model.multi_modal_projector.", "model.language_model.", "lm_head.weight"
TOWER = "vision_tower."
TOWERS: tuple[str, ...] = (TOWER, f"model.{TOWER}")
# Computed, not learned; Vicuna's files of 2023 hold them.
COMPUTED = ".rotary_emb.inv_freq"


def exported_names(config: LlavaConfig) -> dict[str, str]:
    """Name of each tensor in the model, the tower's left out -> its name in a file, as the hub has it.

    Raises:
        UserError: a language model whose tensors are not stored one by one (a mixture of experts).
    """
    llava = skeleton(copy.deepcopy(config))  # building a model sets the attention of the config it is given
    state = llava.state_dict()
    written = {id(tensor): name for name, tensor in revert_weight_conversion(llava, dict(state)).items()}
    if any(id(tensor) not in written for tensor in state.values()):
        raise UserError(
            f"model_type: {config.text_config.model_type!r}: its weights are merged when they are loaded; "
            "choose a language model without experts"
        )
    return {name: written[id(tensor)] for name, tensor in state.items() if not name.startswith(TOWERS)}


class Source:
    """A causal language model, or a LLaVA model that holds one: its folder and the config of its language model.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, resolve_folder(name)
        self.stated = read_config_json(self.folder)
        kind = self.stated.get("model_type")
        if kind not in CONFIG_MAPPING:
            raise UserError(
                f"{self.folder / 'config.json'}: model_type: {kind!r} is none that transformers knows"
            )
        self.is_llava = kind == LlavaConfig.model_type
        with refusing(self.folder / "config.json"):
            config = AutoConfig.from_pretrained(self.folder)
        self.text: PreTrainedConfig = config.text_config if self.is_llava else config
        check_language_model(self.text, name)


def match(source: Source, llava: LlavaForConditionalGeneration) -> dict[str, StoredTensor]:
    """Name in the model -> the tensor that fills it, strictly; a projector that is to be random has none."""
    there = {stored.key: stored for stored in stored_tensors(source.folder, source.name)}
    wanted = dict(llava.named_parameters())
    if source.is_llava:
        names = exported_names(llava.config)
        keys = {name: (names[name], name) for name in wanted}
    else:
        prefix = MODEL_FOR_CAUSAL_LM_MAPPING[type(source.text)].base_model_prefix + "."
        keys = {
            name: (name.replace(LANGUAGE_MODEL, prefix, 1), name.removeprefix(LANGUAGE_MODEL))
            for name in wanted
            if not name.startswith(PROJECTOR)
        }
    found = {name: there[key] for name, either in keys.items() for key in either if key in there}
    missing = [usual for name, (usual, _) in keys.items() if name not in found]
    if missing:
        raise UserError(f"{source.name}: {len(missing)} weights are missing, the first is {missing[0]}")

    read = {stored.key for stored in found.values()}
    ignored = TOWERS if source.is_llava else ()
    if HEAD not in wanted:  # it is the embedding
        ignored += (HEAD, f"language_model.{HEAD}")
    for key in sorted(there):
        if key not in read and not key.startswith(ignored) and not key.endswith(COMPUTED):
            raise UserError(f"{there[key].file}: {key}: not part of this architecture")

    vocabulary = {id(llava.get_input_embeddings().weight), id(llava.lm_head.weight)}
    for name, stored in found.items():
        shape = tuple(wanted[name].shape)
        if id(wanted[name]) in vocabulary:
            shape = (source.text.vocab_size, *shape[1:])
        if stored.shape != shape:
            raise UserError(
                f"{stored.file}: {stored.key}: expected shape {shape} by config.json, found {stored.shape}"
            )
    return found
