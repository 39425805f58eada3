"""What training leaves behind: one standard folder that any tool which serves LLaVA loads, with no code of ours.

Weights are written as they are gathered, one parameter at a time and one file after the other, so that no rank ever
holds the whole model. A folder is whole or absent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, LlavaProcessor

from common import dist
from common.files import whole_folder, write_json
from common.models.hub_format import restate_config, save_processor, tower_tensors
from common.models.vision_encoder import VisionEncoder
from understanding.config import UnderstandingConfig
from understanding.lora import adapter_parameters, merged_weights, save_peft_config
from understanding.objective import LanguageSide
from understanding.served import check_served
from understanding.sizes import numel
from understanding.templates import template_of
from understanding.weights import TOWER, exported_names

SHARD_BYTES = 4 * 2**30
"""Of one file, which is as much as rank 0 holds at a time."""


class _Part(NamedTuple):
    """A tensor to write: its name in the file, its elements, and how all ranks together fetch it (for rank 0)."""

    name: str
    elements: int
    fetch: Callable[[], Tensor | None]


def leave(
    folder: Path,
    adapter: Path,
    config: UnderstandingConfig,
    side: LanguageSide,
    tower: VisionEncoder,
    processor: LlavaProcessor,
) -> list[Path]:
    """All that a run's end leaves, and an export of one of its checkpoints; returns the folders. All ranks call it.

    Raises:
        UserError: as of `export_model` and `save_adapter`.
    """
    adapters = [adapter] if config.model.lora is not None else []
    for path in adapters:
        save_adapter(path, side, config.init_from)
    export_model(folder, side, tower, processor)
    return [folder, *adapters]


def export_model(
    folder: Path,
    side: LanguageSide,
    tower: VisionEncoder,
    processor: LlavaProcessor,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `folder` for `AutoModelForImageTextToText` and `AutoProcessor`; replaces what was there. All ranks call it.

    Adapters are merged into what is written; the weights of `side` stay as they are. The tower is written in the
    precision of the language model.

    Raises:
        UserError: it cannot be written, or what was written gives other token ids than training had; what was there
            before is untouched.
    """
    dtype = next(side.parameters()).dtype
    names = exported_names(side.config)
    parts = [
        _Part(
            names[weight.name],
            numel(weight.parameters[0]),
            partial(_whole, weight.parameters, weight.values, dtype),
        )
        for weight in merged_weights(side)
    ]
    for name, tensor in tower_tensors(tower.model).items():
        fetch = partial(_whole, [tensor], tensor.detach, dtype)
        parts.append(_Part(TOWER + name, tensor.numel(), fetch))
    with _one_folder(folder) as unfinished:
        _write_weights(unfinished, parts, dtype.itemsize, shard_bytes)
        if dist.is_main():
            _write_configs(unfinished, side, dtype, processor)
            save_processor(unfinished, processor)
            check_served(unfinished, processor, side.config.image_seq_length)


def save_adapter(folder: Path, side: LanguageSide, base: str | None) -> None:
    """Write adapters and projector in peft's format, for `PeftModel.from_pretrained(llava, folder)`. All ranks call it.

    Args:
        base: the LLaVA folder that `side` started from, named in the folder.

    Raises:
        UserError: it cannot be written; what was there before is untouched.
    """
    dtype = next(side.parameters()).dtype
    with _one_folder(folder) as unfinished:
        tensors = {
            name: _whole([parameter], parameter.detach, dtype) for name, parameter in adapter_parameters(side)
        }
        _save(unfinished / "adapter_model.safetensors", tensors)
        if dist.is_main():
            save_peft_config(unfinished, side, base)


@contextmanager
def _one_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into on rank 0, which takes the place of `folder` once all is written."""
    with whole_folder(folder) if dist.is_main() else nullcontext(folder) as unfinished:
        yield unfinished
    # Not reached after an error: the other ranks may be gathering. The launcher ends them.
    dist.barrier()


def _whole(parameters: Sequence[Tensor], values: Callable[[], Tensor], dtype: torch.dtype) -> Tensor | None:
    """What `values` reads of `parameters`; gathered on all ranks, returned on rank 0."""
    with _gathered(parameters):
        return values().to("cpu", dtype, copy=True) if dist.is_main() else None


@contextmanager
def _gathered(parameters: Sequence[Tensor]) -> Iterator[None]:
    """The whole parameters inside; nothing to do for those that no rank shares."""
    if not hasattr(parameters[0], "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters)):
        yield


def _write_weights(folder: Path, parts: list[_Part], element_bytes: int, shard_bytes: int) -> None:
    shards: list[list[_Part]] = [[]]
    size = 0
    for part in parts:
        if shards[-1] and size + part.elements * element_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(part)
        size += part.elements * element_bytes
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        _save(folder / name, {part.name: part.fetch() for part in shard})
        files |= {part.name: name for part in shard}
    if dist.is_main() and len(shards) > 1:
        total = sum(part.elements for part in parts)
        index = {
            "metadata": {"total_parameters": total, "total_size": total * element_bytes},
            "weight_map": files,
        }
        write_json(folder / "model.safetensors.index.json", index, sort_keys=True)


def _save(path: Path, tensors: dict[str, Tensor | None]) -> None:
    """What rank 0 has fetched."""
    whole = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if dist.is_main():
        save_file(whole, path, metadata={"format": "pt"})


def _write_configs(folder: Path, side: LanguageSide, dtype: torch.dtype, processor: LlavaProcessor) -> None:
    config = copy.deepcopy(side.config)
    config.architectures = [type(side.llava).__name__]
    for part in (config, config.text_config, config.vision_config):
        part.dtype = str(dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    restate_config(folder)
    text_tokenizer = processor.tokenizer
    ends = {text_tokenizer.eos_token_id}
    template = template_of(processor.chat_template)
    if template is not None and template.end is not None:
        ends.add(text_tokenizer.convert_tokens_to_ids(template.end))
    GenerationConfig(
        bos_token_id=text_tokenizer.bos_token_id,
        eos_token_id=sorted(ends - {None}),
        pad_token_id=text_tokenizer.pad_token_id,
        suppress_tokens=[config.image_token_id],
    ).save_pretrained(folder)
