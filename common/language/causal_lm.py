"""A causal language model and its text tokenizer, strictly: every weight, neither more nor less."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from common.errors import UserError, refusing
from common.language import frozen_tokenizer, text_tokenizer_files
from common.models.strict_loading import config_of, load_strictly
from common.models.weight_files import read_config_json, resolve_folder


def load_causal_lm(folder: Path, dtype: torch.dtype | str, attn_implementation: str) -> Any:
    """The `...ForCausalLM` in `folder`, on the CPU.

    Args:
        dtype: of its parameters; "auto" keeps what is saved.

    Raises:
        UserError: it is absent, of another kind, or damaged.
    """
    kind = read_config_json(folder).get("model_type")
    return load_strictly(
        AutoModelForCausalLM,
        folder,
        f"a language model ({kind})",
        dtype=dtype,
        attn_implementation=attn_implementation,
    )


def build_causal_lm(architecture: Mapping[str, Any], where: str, attn_implementation: str = "sdpa") -> Any:
    """A `...ForCausalLM` with random weights, float32; `where` is the recipe's field that states its architecture.

    Raises:
        UserError: it is none that transformers knows.
    """
    with refusing(where):
        return AutoModelForCausalLM.from_config(
            config_of(architecture, where), attn_implementation=attn_implementation, dtype=torch.float32
        )


def load_text_tokenizer(source: str | Path, field: str = "") -> Any:
    """The text tokenizer at `source`, a folder or a hub id, frozen; nothing else of it is downloaded.

    Args:
        field: of the recipe, for errors; ends in ": ".

    Raises:
        UserError: there is none, or a damaged one.
    """
    with refusing(f"{source}: {field}no text tokenizer can be loaded", Exception, UserError):
        folder = resolve_folder(str(source), text_tokenizer_files.DOWNLOADED)
        expected = text_tokenizer_files.check_files(folder)
        with text_tokenizer_files.overhearing():
            text_tokenizer = frozen_tokenizer.load(str(folder))
        if len(text_tokenizer) < expected:
            raise UserError(f"transformers made {len(text_tokenizer)} tokens of {expected} in the files")
        return text_tokenizer
