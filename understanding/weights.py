"""Weights into the language side, one tensor at a time, and whole on no rank under ZeRO-3.

The model is built without memory; then each parameter is read, filled and, under ZeRO-3, partitioned before the next
one is touched. Nothing has to be patched for that, neither in torch nor in transformers, and the same few lines serve
every ZeRO stage, with adapters or without.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion

from common import dist
from common.errors import UserError, one_line
from common.models.vision_encoder import VisionEncoder
from common.models.weight_files import (
    StoredTensor,
    check_architecture,
    read_config_json,
    resolve_folder,
    stored_tensors,
)
from common.training.engine import Precision
from understanding.config import ModelConfig
from understanding.lora import add_adapters, plain_name
from understanding.model import (
    LanguageSide,
    check_language_model,
    grown_vocabulary,
    llava_config,
    skeleton,
)
from understanding.templates import IMAGE_TOKEN
from understanding.tower import load_tower, tower_hash

PROJECTOR, LANGUAGE_MODEL, HEAD = "model.multi_modal_projector.", "model.language_model.", "lm_head.weight"
TOWERS: tuple[str, ...] = ("vision_tower.", "model.vision_tower.")
# Computed, not learned; Vicuna's files of 2023 hold them.
COMPUTED = ".rotary_emb.inv_freq"


def build_language_side(
    model: ModelConfig,
    tower: VisionEncoder,
    text_tokenizer: PreTrainedTokenizerBase,
    init_from: str | None = None,
    *,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    zero3: dict[str, Any] | None = None,
    activation_checkpointing: bool = False,
) -> LanguageSide:
    """Projector and language model of a recipe with their weights, ready for `deepspeed.initialize`.

    What `model.train` leaves out does not require a gradient. What is random (a fresh projector, adapters) is drawn
    from torch's generator on the CPU, so it is the same for every ZeRO stage and device.

    Args:
        text_tokenizer: with the image token; the vocabulary grows to hold it, and new rows are the mean of the old.
        init_from: a LLaVA folder, from which projector and language model start; None takes the language model of
            the recipe and a random projector.
        precision: "bf16" makes bfloat16 parameters, the others float32.
        zero3: DeepSpeed's config where its ZeRO stage is 3, else None. All ranks call this together.

    Raises:
        UserError: sources that are absent, of another architecture than the recipe states, or that do not fit each
            other; weights that are missing, surplus or misshapen.
    """
    source = _Source(init_from or model.language_model.source)
    config = _config(model, tower, text_tokenizer, source)
    if init_from is not None:
        _check_tower(init_from, model, tower)

    side = LanguageSide(skeleton(config, model.attn_implementation))
    stored = _match(source, side.llava)
    _choose_what_learns(side, model)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if zero3 is None:
        _fill(side.llava, stored, dtype, torch.device(device), None)
    else:
        from common.language.partition import Partition, save_memory

        _fill(side.llava, stored, dtype, torch.device(device), Partition(zero3))
        save_memory(side)
    if activation_checkpointing:
        side.llava.activation_checkpointing_enable({"use_reentrant": False})
    return side


def exported_names(config: LlavaConfig) -> dict[str, str]:
    """Name of each tensor in the model -> its name in a file that `save_pretrained` writes, tower included.

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
    return {name: written[id(tensor)] for name, tensor in state.items()}


class _Source:
    """A causal language model, or a LLaVA model that holds one: its folder and the config of its language model.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, resolve_folder(name)
        self.stated = read_config_json(self.folder, name)
        kind = self.stated.get("model_type")
        if kind not in CONFIG_MAPPING:
            raise UserError(
                f"{self.folder / 'config.json'}: model_type: {kind!r} is none that transformers knows"
            )
        self.is_llava = kind == LlavaConfig.model_type
        try:
            config = AutoConfig.from_pretrained(self.folder)
        except Exception as error:  # transformers' strict configs raise their own kinds
            raise UserError(f"{self.folder / 'config.json'}: {one_line(error)[:300]}") from error
        self.text: PreTrainedConfig = config.text_config if self.is_llava else config
        check_language_model(self.text, name)


def _config(
    model: ModelConfig, tower: VisionEncoder, text_tokenizer: PreTrainedTokenizerBase, source: _Source
) -> LlavaConfig:
    expected = dict(model.language_model.architecture)
    vocabulary = grown_vocabulary(int(expected["vocab_size"]), len(text_tokenizer))
    image_token = text_tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if source.is_llava:
        expected["vocab_size"] = vocabulary  # has grown already
        if source.stated.get("image_token_index") != image_token:
            raise UserError(
                f"{source.name}: config.json: image_token_index: {IMAGE_TOKEN} is {image_token} in the text "
                f"tokenizer, the checkpoint has {source.stated.get('image_token_index')}"
            )
    check_architecture(source.text, expected, source.name)
    return llava_config(tower.model.config, source.text, vocabulary, image_token, model.image_tokens)


def _check_tower(init_from: str, model: ModelConfig, tower: VisionEncoder) -> None:
    there, here = tower_hash(load_tower(init_from, model.tower.architecture)), tower_hash(tower)
    if there != here:
        raise UserError(
            f"{init_from}: init_from: was trained on the tower {there[:12]}, model.tower names {here[:12]}"
        )


def _match(source: _Source, llava: LlavaForConditionalGeneration) -> dict[str, StoredTensor]:
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


def _choose_what_learns(side: LanguageSide, model: ModelConfig) -> None:
    side.requires_grad_(False)
    if model.lora is not None:
        add_adapters(side, model.lora)
    elif "language_model" in model.train:
        side.llava.model.language_model.requires_grad_(True)
        side.llava.lm_head.requires_grad_(True)
    if "projector" in model.train:
        side.llava.model.multi_modal_projector.requires_grad_(True)


def _fill(
    llava: nn.Module,
    stored: dict[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
    partition: Callable[[nn.Parameter], None] | None,
) -> None:
    """Give every parameter without memory its values; parameters that are tied stay tied."""
    reads = partition is None or dist.is_main()  # what is partitioned comes from rank 0
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for prefix, module in llava.named_modules():
        for leaf, empty in list(module.named_parameters(recurse=False)):
            if empty not in filled:
                name = plain_name(f"{prefix}.{leaf}")
                values = torch.empty(empty.shape, dtype=dtype, device=device)
                if name not in stored:
                    values.copy_(_random(module, empty.shape, name))
                elif reads:
                    values.copy_(_grown(stored[name].read(), empty.shape))
                filled[empty] = nn.Parameter(values, requires_grad=empty.requires_grad)
                if partition is not None:
                    partition(filled[empty])
            setattr(module, leaf, filled[empty])
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[leaf] = buffer.to(device)  # rotary frequencies, in float32 whatever the precision


def _random(linear: Any, shape: torch.Size, name: str) -> Tensor:
    """Start values of a linear layer of the projector, and of an adapter's A; its B is zero."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    bound = 1 / math.sqrt(linear.in_features)  # torch's own start, as in LLaVA and in LoRA
    return torch.empty(shape).uniform_(-bound, bound)


def _grown(stored: Tensor, shape: torch.Size) -> Tensor:
    """Rows of new tokens are the mean of all others: none of them is likelier than another."""
    new = shape[0] - stored.shape[0] if stored.ndim else 0
    if not new:
        return stored
    return torch.cat([stored, stored.float().mean(0, keepdim=True).expand(new, -1).to(stored.dtype)])
