"""InternVL as its checkpoints' own code answers VLMEvalKit, around a checkpoint that transformers reads by itself.

What is notable here: VLMEvalKit's `InternVLChat` does all but the last step, from the prompt of a data set to the tiles
of its pictures, and then calls `chat` of the checkpoint's own code. That one method is here. It puts the system text
of InternVL2.5 and InternVL3 in front of every question, which the chat template of the `-hf` checkpoints does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from common.errors import UserError

# conversation.py of InternVL3: its template `internvl2_5`.
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
END = "<|im_end|>"
TILE = 448  # pixels a side, as `InternVLChat` cuts them, and how it normalises them:
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Checkpoint:
    """An `InternVLForConditionalGeneration` and its processor, with the one method that `InternVLChat` calls.

    Args:
        model: None to hear what would be asked, in `heard`, and to answer nothing.

    Raises:
        UserError: tiles of another size or normalisation than `InternVLChat` makes, or no ChatML in the vocabulary.
    """

    def __init__(self, model: Any, processor: Any, source: str) -> None:
        self.model, self.processor = model, processor
        self.heard: list[list[Any]] = []
        self.cut = False
        """Whether the last answer was cut off at the most tokens it may have."""
        images = processor.image_processor
        found = (images.size["height"], images.size["width"], *images.image_mean, *images.image_std)
        if found != (TILE, TILE, *MEAN, *STD):
            raise UserError(
                f"{source}: preprocessor_config.json: VLMEvalKit's InternVLChat has tiles of {TILE} px with mean "
                f"{MEAN} and deviation {STD}, found {found}"
            )
        if END not in processor.tokenizer.get_vocab():
            raise UserError(f"{source}: the vocabulary has no {END}, with which InternVL3's turns end")

    def prompt(self, question: str, tiles: Sequence[int]) -> str:
        """The whole text, each `<image>` in its turn as the tokens of a picture of so many tiles."""
        if tiles and "<image>" not in question:
            question = f"<image>\n{question}"
        turns = (("system", SYSTEM), ("user", question))
        text = (
            "".join(f"<|im_start|>{role}\n{said}{END}\n" for role, said in turns) + "<|im_start|>assistant\n"
        )
        named = self.processor
        for count in tiles:
            picture = named.image_token * (named.image_seq_length * count)
            text = text.replace("<image>", named.start_image_token + picture + named.end_image_token, 1)
        return text

    def chat(
        self,
        tokenizer: Any,
        pixel_values: torch.Tensor | None,
        question: str,
        generation_config: dict[str, Any],
        num_patches_list: Sequence[int] = (),
        verbose: bool = False,
    ) -> str:
        """The answer, greedily.

        Args:
            pixel_values: (tiles of all pictures, 3, 448, 448), normalised. generation_config: `max_new_tokens`.
            num_patches_list: tiles of each picture. verbose: of the interface; not used.
        """
        text, length = self.prompt(question, num_patches_list), int(generation_config["max_new_tokens"])
        if self.model is None:
            self.heard.append([text, {"max_new_tokens": length}])
            return ""
        inputs = tokenizer(text, return_tensors="pt").to(self.model.device)
        if pixel_values is not None:
            inputs["pixel_values"] = pixel_values.to(self.model.device, self.model.dtype)
        end = tokenizer.convert_tokens_to_ids(END)
        with torch.inference_mode():
            # What the folder's generation_config.json says is of no concern to the protocol.
            ids = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values=inputs.get("pixel_values"),
                max_new_tokens=length,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                eos_token_id=end,
                pad_token_id=end,
            )
        written = ids[0, inputs["input_ids"].shape[1] :]
        self.cut = len(written) == length and int(written[-1]) != end
        return str(tokenizer.decode(written, skip_special_tokens=True).split(END)[0].strip())
