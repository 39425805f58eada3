"""A conversation as the model reads it: token ids, and the pixels of its pictures.

Nothing is done that the folder's own chat template and processor would not do. What somebody types is encoded as
text even where it spells a token (`<image>`, `</s>`), which transformers does for templates that take content parts;
for those that take strings alone, it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError, refusing
from understanding.chat.turns import Message, read_turns


@dataclass(frozen=True)
class Prompt:
    """What is asked: token ids; the processor's tensors of the pictures (`pixel_values` (I, 3, S, S), and with some
    towers `image_sizes` (I, 2)); and where each picture stands among the ids, [start, stop), None if that cannot be
    told."""

    ids: tuple[int, ...]
    vision: dict[str, Tensor]
    spans: tuple[tuple[int, int], ...] | None

    def __len__(self) -> int:
        return len(self.ids)


class PromptWriter:
    """Writes prompts for a LLaVA model with its processor, which is made ready for it.

    Raises:
        UserError: the processor has no chat template that could be used.
    """

    def __init__(self, processor: Any, config: Any) -> None:
        self.processor = processor
        self._image_id = config.image_token_id
        processor.tokenizer.padding_side = "left"  # else answers would be written behind the padding
        processor.tokenizer.model_max_length = 10**9  # of which it would warn; the model's positions count
        if processor.patch_size is None:  # older folders leave it to the model's config
            vision = config.vision_config
            processor.patch_size = vision.patch_size
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")
        self._takes_parts = self._shows([{"type": "image"}])
        if not self._takes_parts and not self._shows(processor.image_token):
            raise UserError("the processor has no chat template that takes pictures")

    def write(self, images: Sequence[Image.Image], messages: Sequence[Message]) -> Prompt:
        """Raises:
        UserError: see `read_turns`; or the conversation does not fit the template.
        """
        pictures, turns = read_turns(images, messages)
        with refusing("the conversation does not fit the model's template"):
            inputs = (self._from_parts if self._takes_parts else self._from_strings)(pictures, turns)
        return self._prompt(inputs, len(pictures))

    def write_text(self, pictures: Sequence[Image.Image], text: str) -> Prompt:
        """What a template has rendered already, with the processor's image token where each picture stands."""
        return self._prompt(self._encoded(pictures, text), len(pictures))

    def _prompt(self, inputs: Any, pictures: int) -> Prompt:
        vision = {
            name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")
        }
        ids = self._begun(inputs["input_ids"][0].tolist())
        return Prompt(ids, vision, self._spans(ids, pictures))

    def _from_parts(self, pictures: list[Image.Image], turns: list[dict[str, Any]]) -> Any:
        settings: dict[str, Any] = {"add_special_tokens": False}  # the template writes its own
        if pictures:
            settings["images"] = pictures
        return self.processor.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
            processor_kwargs=settings,
        )

    def _from_strings(self, pictures: list[Image.Image], turns: list[dict[str, Any]]) -> Any:
        image = self.processor.image_token
        special = [
            token.content for token in self.processor.tokenizer.added_tokens_decoder.values() if token.special
        ]
        controls = re.compile("|".join(map(re.escape, {*special, image})))
        strings = []
        for turn in turns:
            for part in turn["content"]:
                if found := controls.search(part.get("text", "")):
                    raise UserError(
                        f"{found[0]} in a text, which this model's template would take for its own"
                    )
            texts = (f"{image}\n" if part["type"] == "image" else part["text"] for part in turn["content"])
            strings.append({"role": turn["role"], "content": "".join(texts)})
        text = self.processor.apply_chat_template(strings, add_generation_prompt=True, tokenize=False)
        return self._encoded(pictures, text)

    def _encoded(self, pictures: Sequence[Image.Image], text: str) -> Any:
        return self.processor(
            text=[text], images=list(pictures) or None, add_special_tokens=False, return_tensors="pt"
        )

    def _shows(self, content: Any) -> bool:
        """Whether the template lets a picture through that is told in this way; templates fail as they like."""
        try:
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except Exception:
            return False
        return text.count(self.processor.image_token) == 1

    def _begun(self, ids: list[int]) -> tuple[int, ...]:
        """With the token that begins every text of the text tokenizer, where the template does not write it."""
        begin = self.processor.tokenizer.bos_token_id
        if begin is not None and ids[:1] != [begin] and self.processor.tokenizer("").input_ids[:1] == [begin]:
            ids = [begin, *ids]
        return tuple(ids)

    def _spans(self, ids: tuple[int, ...], pictures: int) -> tuple[tuple[int, int], ...] | None:
        """Pictures have equally many tokens each, which stand side by side, or nothing is said."""
        places = [place for place, token in enumerate(ids) if token == self._image_id]
        each = len(places) // pictures if pictures else 0
        if each * pictures != len(places):
            return None
        shares = [places[start : start + each] for start in range(0, len(places), each)] if each else []
        if any(after != before + 1 for share in shares for before, after in pairwise(share)):
            return None
        return tuple((share[0], share[-1] + 1) for share in shares)


def batch(prompts: Sequence[Prompt], pad_id: int) -> dict[str, Tensor]:
    """Several prompts as one input of the model: ids (B, N) padded on the left, their mask, and all pictures."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt) :] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    names = {name: None for prompt in prompts for name in prompt.vision}
    for name in names:
        inputs[name] = _joined([prompt.vision[name] for prompt in prompts if name in prompt.vision])
    return inputs


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One behind the other; pictures of several sizes get zeros on the right and below, as processors give them."""
    if tensors[0].ndim == 4:
        height, width = (max(tensor.shape[axis] for tensor in tensors) for axis in (2, 3))
        tensors = [
            torch.nn.functional.pad(tensor, (0, width - tensor.shape[3], 0, height - tensor.shape[2]))
            for tensor in tensors
        ]
    return torch.cat(list(tensors))
