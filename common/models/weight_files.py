"""Pretrained checkpoints as files: where they are, which tensors they hold, one tensor at a time; and weights by hash.

Nothing here brings a whole checkpoint into memory: names and shapes are read from headers, and a tensor only when
it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import safe_open
from torch import Tensor

from common.errors import UserError, refusing
from common.models.run_folder import model_of

# Configs, weights, and what a text tokenizer may consist of.
DOWNLOADED = ("*.json", "*.safetensors", "*.bin", "*.model", "*.jinja", "merges.txt", "vocab.txt")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that stands in a file; `read()` brings it into memory."""

    key: str
    file: Path
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def resolve_folder(source: str, patterns: Sequence[str] = DOWNLOADED) -> Path:
    """`source` itself if it is a folder (of a run: its model), else the hub's snapshot of it, files of these patterns.

    Raises:
        UserError: neither a folder nor to be had from the hub, or a run without a model.
    """
    if Path(source).is_dir():
        return model_of(Path(source))
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise UserError(f"{source}: no such folder, and no hub id either (expected owner/name)")
    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except (
        OSError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    ) as error:
        raise UserError(
            f"{source}: no such folder, and the hub could not give it ({type(error).__name__}); "
            "download it first, or give a local folder"
        ) from error


def read_config_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The checkpoint's `config.json`, or another file of settings.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / name
    with refusing(f"{path}: cannot be read", OSError, ValueError):
        stated = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stated, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(stated).__name__}")
    return stated


def refuse_stand_in(path: Path) -> None:
    """Refuse what lies where a checkpoint's file should: what a clone without Git LFS, a failed download or a full disk
    leaves. The libraries that would read it speak of headers and lines instead.

    Raises:
        UserError: it is one of these, or no file at all.
    """
    with refusing(f"{path.name}: cannot be read", OSError), path.open("rb") as file:
        start = file.read(512).lstrip()
    if not start:
        raise UserError(f"{path.name}: empty")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name}: a Git LFS pointer in place of the file; `git lfs pull` brings it")
    if start[:9].lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path.name}: a web page in place of the file; download it again")


def check_model_type(folder: Path, *expected: str, hint: str = "") -> str:
    """The `model_type` that the checkpoint's `config.json` states, one of `expected`.

    Args:
        hint: said behind what was expected.

    Raises:
        UserError: it is another one, or there is no such file.
    """
    found = read_config_json(folder).get("model_type")
    if found not in expected:
        wanted = " or ".join(map(repr, expected))
        raise UserError(f"{folder / 'config.json'}: model_type: expected {wanted}{hint}, found {found!r}")
    return found


def stored_tensors(folder: Path, source: str) -> Iterator[StoredTensor]:
    """All tensors of a checkpoint, file by file.

    Raises:
        UserError: no weights in `folder`, or a file that cannot be read as weights.
    """
    for path in weight_files(folder, source):
        yield from tensors_of(path)


def weight_files(folder: Path, source: str) -> list[Path]:
    """The files that hold a checkpoint's weights: those that its index names, else whatever bears a usual name.

    Raises:
        UserError: there are none, or one that the index names is absent.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{whole}.index.json"
        if index.is_file():
            return _indexed(index)
        if (folder / whole).is_file():
            return [folder / whole]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{source}: no weights there (*.safetensors or pytorch_model*.bin)")
    return files


def tensors_of(path: Path) -> Iterator[StoredTensor]:
    """The tensors of one file.

    Raises:
        UserError: it cannot be read as weights.
    """
    with refusing(path.parent, UserError):
        refuse_stand_in(path)
    with refusing(f"{path}: cannot be read as weights"):
        if path.suffix == ".safetensors":
            handle = safe_open(path, framework="pt")
            for key in handle.keys():  # noqa: SIM118
                shape = tuple(handle.get_slice(key).get_shape())
                yield StoredTensor(key, path, shape, partial(handle.get_tensor, key))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            for key, tensor in state.items():
                if not isinstance(tensor, Tensor):
                    continue
                yield StoredTensor(key, path, tuple(tensor.shape), partial(state.__getitem__, key))


def _indexed(index: Path) -> list[Path]:
    with refusing(f"{index}: no valid index of weights", OSError, ValueError, KeyError, AttributeError):
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name}: absent, yet {index.name} names it")
    return [index.parent / name for name in names]


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the checkpoint's safetensors file (else .bin); if sharded, of all of them joined in order of name."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor], rounded: bool = False) -> str:
    """SHA-256 over the tensors of a model, whatever file they came from: 64 hex digits, the same on every device.

    Args:
        rounded: values count in bfloat16 and types not at all, so that a model saved in that precision is still the
            model it was. Else names, types, shapes and bytes count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        kind = "" if rounded else f"{tensor.dtype} "
        values = tensor.detach()
        if rounded and values.is_floating_point():
            values = values.bfloat16()
        digest.update(f"{name} {kind}{tuple(values.shape)}\n".encode())
        digest.update(values.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
