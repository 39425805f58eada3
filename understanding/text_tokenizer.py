"""The text tokenizer of a language model, made ready for conversations with images."""

from __future__ import annotations

from functools import lru_cache

from transformers import AddedToken, PreTrainedTokenizerFast

from common.errors import UserError
from common.language import causal_lm
from common.language.frozen_tokenizer import freeze
from understanding.templates import IMAGE_TOKEN, TEMPLATES, Template

_NO_TEXT = "\ufdd0"  # a noncharacter of Unicode, which stands in no text


def load_text_tokenizer(source: str, template: str, pad_token: str | None = None) -> PreTrainedTokenizerFast:
    """The text tokenizer that stands beside a language model (a folder or hub id), made ready for conversations.

    Raises:
        UserError: there is none, or it does not fit the template.
    """
    text_tokenizer = causal_lm.load_text_tokenizer(source, "model.language_model.source: ")
    return prepare_text_tokenizer(text_tokenizer, template, pad_token)


def prepare_text_tokenizer(
    text_tokenizer: PreTrainedTokenizerFast, template: str, pad_token: str | None = None
) -> PreTrainedTokenizerFast:
    """A frozen copy with the image token, the chat template and a pad token: the very tokenizer that training uses and
    that is exported.

    Padding never decides what is learned here, so any pad token would do; yet tools that train the exported model
    further do ignore every pad token, and with it the end of each answer if they were the same.

    Args:
        pad_token: an existing token; None keeps the tokenizer's own.

    Raises:
        UserError: no pad token, an unsuitable one, or special tokens of the template are missing.
    """
    where = text_tokenizer.name_or_path or "the text tokenizer"
    chosen = TEMPLATES[template]
    if not text_tokenizer.is_fast:
        raise UserError(f"{where}: model.language_model.source: expected a fast text tokenizer")
    vocabulary = text_tokenizer.get_vocab()
    missing = [token for token in chosen.needs if token not in vocabulary]
    if missing:
        raise UserError(
            f"{where}: model.template: {template} needs {' and '.join(missing)}, which this language model does not "
            "know; choose the template that fits it"
        )
    pad = pad_token or text_tokenizer.pad_token
    if pad is None:
        raise UserError(
            f"{where}: model.language_model.pad_token: this text tokenizer names none; state an existing token, "
            "such as <unk> for Llama"
        )
    if pad not in vocabulary:
        raise UserError(f"{where}: model.language_model.pad_token: {pad} is not in the vocabulary")
    if pad == chosen.end:
        raise UserError(
            f"{where}: model.language_model.pad_token: {pad} ends every answer; choose another token to pad with"
        )
    text_tokenizer = freeze(text_tokenizer)
    text_tokenizer.pad_token = pad
    if IMAGE_TOKEN not in text_tokenizer.get_added_vocab():
        text_tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return with_template(text_tokenizer, chosen)


def with_template(text_tokenizer: PreTrainedTokenizerFast, template: Template) -> PreTrainedTokenizerFast:
    """A copy of a text tokenizer that has the image token, with `template` as its chat template."""
    text_tokenizer = freeze(text_tokenizer)
    text_tokenizer.chat_template = template.text(_gap(text_tokenizer))
    return text_tokenizer


@lru_cache(maxsize=4)
def without_images(text_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """To `text_tokenizer` and its template, made ready for conversations, what has no picture: `<image>` is then a word
    that somebody wrote."""
    text_tokenizer = freeze(text_tokenizer, without=IMAGE_TOKEN)
    assert isinstance(text_tokenizer.chat_template, str)
    text_tokenizer.chat_template = text_tokenizer.chat_template.replace(IMAGE_TOKEN, _NO_TEXT)
    return text_tokenizer


def _gap(text_tokenizer: PreTrainedTokenizerFast) -> str:
    """What to write behind a special token so that a word is there what it is at the start of a text: a space where the
    tokenizer puts one before a text, and nothing where it never does, or does behind special tokens too."""
    alone = text_tokenizer("a", add_special_tokens=False)["input_ids"]
    behind = text_tokenizer(f"{IMAGE_TOKEN} a", add_special_tokens=False)["input_ids"]
    return " " if behind[1:] == alone else ""
