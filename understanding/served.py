"""Whether an exported folder gives the token ids that its model was trained with, found out as its users load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor, LlavaProcessor

from common.errors import UserError, refusing
from common.language.frozen_tokenizer import compare_ids
from understanding.conversation import BadSample, encode, read_conversation
from understanding.templates import TEMPLATES, template_of
from understanding.text_tokenizer import with_template

_ROOM = 1_000_000


def _record(*texts: str, images: int = 0) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": texts[0], "image": ["a.jpg"] * images, "conversations": turns}


# What tokenizers differ in: the start of words behind pictures, ends and at the beginning; blanks, bytes, newlines.
RECORDS = (
    _record("<image>", "A red circle, left of 2 squares.", images=1),
    _record("<image>\nWhat is it?", "A dog.", "How many?\n", " 42  dogs\n\n- naïve 日本", images=1),
    _record("First: <image> second: <image><image>\nSame?", "No", "And <image>?", "Yes", images=4),
    _record("Is it  2+2=4?", "yes", "", "\nUSER: no", "Why?", ""),
)


def check_served(folder: Path, processor: LlavaProcessor, image_tokens: int) -> None:
    """Load `folder` with `AutoProcessor`, and compare the ids of a few conversations with training's: several pictures,
    one and none, in the folder's own template and in each other one that fits its text tokenizer.

    Args:
        processor: training's. image_tokens: of one picture.

    Raises:
        UserError: it cannot be loaded, or ids differ.
    """
    with refusing(f"{folder.name}: cannot be loaded again"):
        served = AutoProcessor.from_pretrained(folder)
    own, vocabulary = template_of(processor.chat_template), processor.tokenizer.get_vocab()
    for template in TEMPLATES.values():
        if not vocabulary.keys() >= set(template.needs):
            continue
        trained = with_template(processor.tokenizer, template)
        for record in RECORDS:
            conversation = read_conversation(record)
            try:
                ids = encode(conversation, trained, image_tokens, _ROOM).ids
            except BadSample:  # the template is not for such a one
                continue
            with refusing(f"{folder.name}: template {template.name}", Exception, UserError):
                text = served.apply_chat_template(
                    list(conversation.messages),
                    chat_template=None if template is own else trained.chat_template,
                )
                pictures = [Image.new("RGB", (8, 8))] * len(conversation.images)
                inputs = served(text=text, images=pictures or None, add_special_tokens=False)
                compare_ids(inputs["input_ids"][0], ids.tolist(), repr(record["id"]))
