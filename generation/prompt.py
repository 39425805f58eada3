"""What stands before the first code: defined once, for training and sampling alike.

    conditional     caption tokens, begin_image
    unconditional   begin_image

A picture without a caption, and one whose caption was dropped for classifier-free guidance, are trained with the
unconditional prompt; so an empty prompt is the unconditional one. Text stays text: a caption that spells the name of a
visual or a control token is split into ordinary tokens.
"""

from __future__ import annotations

from typing import Any

from common.errors import UserError
from generation.vocabulary import BEGIN_IMAGE


def prompt_ids(
    text_tokenizer: Any, text: str | None, *, room: int | None = None, truncate: bool = False
) -> list[int]:
    """All ids before the first code; the last one is begin_image.

    Args:
        text_tokenizer: the expanded one (see `vocabulary.expand`).
        text: any language, any length; runs of white space count as one space. None or empty: unconditional.
        room: text tokens that fit beside a picture (`VisualVocabulary.text_room`); None does not limit.
        truncate: cut what does not fit, from the end; else that is an error.

    Raises:
        UserError: longer than `room`, with `truncate` false.
    """
    words = " ".join((text or "").split())
    ids: list[int] = _text_ids(text_tokenizer, words) if words else []
    if room is not None and len(ids) > room:
        if not truncate:
            start = words if len(words) <= 40 else f"{words[:40]}..."
            raise UserError(
                f"prompt {start!r}: {len(ids)} tokens, but {room} fit beside a picture; shorten it, or ask for "
                "truncation"
            )
        ids = ids[:room]
    return [*ids, begin_image_id(text_tokenizer)]


def begin_image_id(text_tokenizer: Any) -> int:
    """The id of begin_image.

    Raises:
        ValueError: a text tokenizer without visual tokens.
    """
    # That of the unknown token, if it has none.
    found = int(text_tokenizer.convert_tokens_to_ids(BEGIN_IMAGE))
    if text_tokenizer.convert_ids_to_tokens(found) != BEGIN_IMAGE:
        raise ValueError(f"the text tokenizer has no token {BEGIN_IMAGE}: expected an expanded one")
    return found


def _text_ids(text_tokenizer: Any, words: str) -> list[int]:
    # Captions come from the web: what is no valid Unicode becomes a question mark, as in any lenient reader.
    valid = words.encode("utf-8", "replace").decode("utf-8")
    return list(
        text_tokenizer(valid, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    )
