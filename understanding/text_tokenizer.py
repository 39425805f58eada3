"""The text tokenizer of a language model, made ready for conversations with images."""

from __future__ import annotations

from transformers import AddedToken, PreTrainedTokenizerFast

from common.errors import UserError
from common.language import causal_lm
from understanding.templates import IMAGE_TOKEN, TEMPLATES


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
    """Give it the image token, the chat template and a pad token; the tokenizer itself is changed and returned.

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
    text_tokenizer.pad_token = pad
    text_tokenizer.chat_template = chosen.jinja
    if IMAGE_TOKEN not in text_tokenizer.get_added_vocab():
        text_tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return text_tokenizer
