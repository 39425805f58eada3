"""A generator on disk: one folder that is all a user needs.

    MODEL/config.json, *.safetensors     a plain causal language model, with `visual_vocabulary` in its config
    MODEL/tokenizer.json ...             its text tokenizer, in which every visual id has a name
    MODEL/vqrae/                         the VQRAE whose codes it writes, referenced by hash

`AutoModelForCausalLM` and `AutoTokenizer` load the folder without our code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, one_line
from common.models.encoder_loading import resolve_folder
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae
from generation.vocabulary import VisualVocabulary, vqrae_hash

VQRAE_FOLDER = "vqrae"


@dataclass(frozen=True)
class GeneratorFolder:
    """What the folder holds.

    Args:
        model: a `...ForCausalLM` whose config holds the vocabulary.
        text_tokenizer: the expanded one.
        vqrae: float32.
    """

    model: Any
    text_tokenizer: Any
    vqrae: VQRAE
    vocabulary: VisualVocabulary

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all of it."""
        self.model.save_pretrained(folder)
        self.text_tokenizer.save_pretrained(folder)
        self.vqrae.save_pretrained(Path(folder) / VQRAE_FOLDER)


def load_generator(
    source: str,
    dtype: torch.dtype | str = "auto",
    attn_implementation: str = "sdpa",
    check_hash: bool = True,
) -> GeneratorFolder:
    """The generator at `source`, a local folder or a hub id, on the CPU.

    Args:
        dtype: of the language model's parameters; "auto" keeps what is saved.
        check_hash: hash the VQRAE's weights (a second per 2 GB) and compare.

    Raises:
        UserError: nothing there, a model that does not write pictures, damaged weights, or another VQRAE than the one
            that the codes mean.
    """
    folder = resolve_folder(source)
    if not (folder / VQRAE_FOLDER / "config.json").is_file():
        raise UserError(f"{source}: no {VQRAE_FOLDER}/ in this folder: not a generator")
    model, text_tokenizer = load_language_model(folder, dtype, attn_implementation)
    vocabulary = VisualVocabulary.of(model.config, source)
    if len(text_tokenizer) != vocabulary.rows:
        raise UserError(
            f"{source}: its text tokenizer has {len(text_tokenizer)} tokens, expected {vocabulary.rows}"
        )
    vqrae, where = load_vqrae(str(folder), attn_implementation)
    if check_hash:
        vocabulary.check_vqrae(vqrae_hash(vqrae), str(where))
    return GeneratorFolder(model=model, text_tokenizer=text_tokenizer, vqrae=vqrae, vocabulary=vocabulary)


def load_language_model(folder: Path, dtype: torch.dtype | str, attn_implementation: str) -> tuple[Any, Any]:
    """A causal language model, strictly (every weight, neither more nor less), and its text tokenizer.

    Raises:
        UserError: one of them is absent, of another kind, or damaged.
    """
    from transformers import AutoModelForCausalLM

    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a language model: {one_line(error)}") from error
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds for damaged files and misfits
        reason = one_line(error)[:300]
        raise UserError(f"{folder}: cannot be loaded as a language model ({kind}): {reason}") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise UserError(
                f"{folder}: weights do not fit config.json: {problem}: {sorted(info[problem])[0]}"
            )
    return model, load_text_tokenizer(folder)


def load_text_tokenizer(folder: Path) -> Any:
    """Raises `UserError` if there is none, or a damaged one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise UserError(f"{folder}: no text tokenizer that can be loaded: {one_line(error)[:300]}") from error
