"""A generator on disk: one folder that is all a user needs.

    MODEL/config.json, *.safetensors     a plain causal language model, with `visual_vocabulary` in its config
    MODEL/tokenizer.json ...             its text tokenizer, in which every visual id has a name
    MODEL/sampling.json                  how to draw with it, see `sampling_file`
    MODEL/vqrae/                         the VQRAE whose codes it writes, referenced by hash

`AutoModelForCausalLM` and `AutoTokenizer` load the folder without our code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, refusing
from common.language.causal_lm import load_causal_lm, load_text_tokenizer
from common.language.frozen_tokenizer import check_saved
from common.models.hub_format import save_language_model
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import VQRAE_FOLDER, load_vqrae, vqrae_folder
from common.models.weight_files import resolve_folder, state_sha256
from generation.sampling import Sampling
from generation.sampling_file import FILE, hub_fields, read_sampling, write_sampling
from generation.vocabulary import VisualVocabulary


@dataclass(frozen=True)
class GeneratorFolder:
    """What the folder holds.

    Args:
        model: a `...ForCausalLM` whose config holds the vocabulary.
        text_tokenizer: the expanded one.
        vqrae: float32.
        sampling: the settings that drawing starts from. origin: where they are from, in words.
    """

    model: Any
    text_tokenizer: Any
    vqrae: VQRAE
    vocabulary: VisualVocabulary
    sampling: Sampling = field(default_factory=Sampling)
    origin: str = "the defaults"

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all of it.

        Raises:
            UserError: the text tokenizer that was saved gives other ids than this one.
        """
        hub = hub_fields(self.sampling, self.vocabulary.image_tokens)
        for name, value in hub.items():
            setattr(self.model.generation_config, name, value)
        save_language_model(folder, self.model, self.text_tokenizer)
        check_saved(Path(folder), self.text_tokenizer, self._texts())
        write_sampling(Path(folder), self.sampling, self.origin)
        self.vqrae.save_pretrained(Path(folder) / VQRAE_FOLDER)

    def _texts(self) -> list[str]:
        """Prompts with what tokenizers differ in, and the names of visual ids."""
        first, last = self.vocabulary.offset, self.vocabulary.rows - 1
        names = "".join(self.text_tokenizer.convert_ids_to_tokens([first, first + 1, last]))
        return [
            "A red circle, left of 2 squares",
            "  two\n\nlines, naïve 日本 ",
            f"a cat{names} and{names}",
            names,
        ]


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
    if vqrae_folder(folder) == folder:
        raise UserError(f"{source}: no {VQRAE_FOLDER}/ in this folder: not a generator")
    model, text_tokenizer = load_causal_lm(folder, dtype, attn_implementation), load_text_tokenizer(folder)
    vocabulary = VisualVocabulary.of(model.config, source)
    if len(text_tokenizer) != vocabulary.rows:
        raise UserError(
            f"{source}: its text tokenizer has {len(text_tokenizer)} tokens, expected {vocabulary.rows}"
        )
    vqrae, where = load_vqrae(str(folder), attn_implementation)
    if check_hash:
        vocabulary.check_vqrae(state_sha256(vqrae.state_dict()), str(where))
    sampling, origin = read_sampling(folder)
    with refusing(f"{folder / FILE}: sampling", ValueError):
        sampling.check(vocabulary.codebook_size)
    return GeneratorFolder(
        model=model,
        text_tokenizer=text_tokenizer,
        vqrae=vqrae,
        vocabulary=vocabulary,
        sampling=sampling,
        origin=origin,
    )
