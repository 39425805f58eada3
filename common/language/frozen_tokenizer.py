"""A text tokenizer whose rules are fixed: by its folder when it is loaded, and by `tokenizer.json` when it is saved.

transformers builds the rules of many classes anew from settings, at loading and again after saving: Llama's `legacy`,
which decides whether a word starts after a special token, is lost on the way, and a model is served other ids than it
was trained with. The class that is used here takes and leaves the rules as they stand, in every version.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

from common.errors import UserError


def load(source: str) -> Any:
    """The text tokenizer at `source`, a folder or a hub id, as the models of that folder were trained with it; one
    without fast rules is returned as it is."""
    text_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if not text_tokenizer.is_fast:
        return text_tokenizer
    if isinstance(text_tokenizer, LlamaTokenizer):
        if rules := cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False):
            _take_rules(text_tokenizer.backend_tokenizer, Tokenizer.from_file(rules))
        elif "legacy" not in get_tokenizer_config(source):
            # What its absence meant until transformers 5; folders with nothing but a SentencePiece model are older.
            text_tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, legacy=True)
    return freeze(text_tokenizer)


def freeze(text_tokenizer: Any, without: str | None = None) -> PreTrainedTokenizerFast:
    """The same tokens, ids and settings, in the class that has no rules of its own.

    Args:
        without: an added token to leave out, so that it is text like any other.
    """
    rules = json.loads(text_tokenizer.backend_tokenizer.to_str())
    rules |= {"truncation": None, "padding": None}  # left behind by former calls
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] != without]
    named = {
        name: token
        for name, token in text_tokenizer.special_tokens_map.items()
        if isinstance(token, str) and token != without
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)),
        name_or_path=text_tokenizer.name_or_path,
        model_max_length=text_tokenizer.model_max_length,
        padding_side=text_tokenizer.padding_side,
        truncation_side=text_tokenizer.truncation_side,
        model_input_names=list(text_tokenizer.model_input_names),
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[
            str(token) for token in text_tokenizer.extra_special_tokens if str(token) != without
        ],
        chat_template=text_tokenizer.chat_template,
        **named,
    )


def check_saved(folder: Path, text_tokenizer: Any, texts: Sequence[str]) -> None:
    """Load the text tokenizer that was saved in `folder`, as a user would, and compare the ids of `texts`.

    Raises:
        UserError: they differ from those of `text_tokenizer`, with which the model was trained.
    """
    saved = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        compare_ids(
            saved(text, add_special_tokens=False)["input_ids"],
            text_tokenizer(text, add_special_tokens=False)["input_ids"],
            repr(text),
        )


def compare_ids(saved: Sequence[int], trained: Sequence[int], text: str) -> None:
    """Nothing where the ids are equal.

    Raises:
        UserError: they differ; names the first place.
    """
    if list(saved) == list(trained):
        return
    pairs = zip(saved, trained, strict=False)
    place = next(
        (place for place, (one, other) in enumerate(pairs) if one != other), min(len(saved), len(trained))
    )
    there, here = ([*ids[place : place + 1], "none"][0] for ids in (saved, trained))
    raise UserError(
        f"the saved text tokenizer gives other ids than training had, so nothing is exported: token {place} of "
        f"{text[:80]} is {there}, expected {here}"
    )


def _take_rules(backend: Tokenizer, stated: Tokenizer) -> None:
    backend.normalizer, backend.pre_tokenizer, backend.decoder = (  # type: ignore[method-assign]
        stated.normalizer,
        stated.pre_tokenizer,
        stated.decoder,
    )
