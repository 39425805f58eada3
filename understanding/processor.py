"""Pictures and text as the model takes them: the library's own LLaVA processor, saved beside the model.

Training, chat and every serving tool see the same pixels, because all of them use this one. How a picture becomes the
tower's square: cut to its middle, as in LLaVA-1.5's pretraining; padded with the tower's mean colour, as in its
fine-tuning; or stretched.
"""

from __future__ import annotations

import copy

from transformers import LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.llava.image_processing_llava import LlavaImageProcessor

from common.models.vision_encoder import VisionEncoder
from understanding.config import ImageFit
from understanding.templates import IMAGE_TOKEN


def build_processor(
    tower: VisionEncoder, text_tokenizer: PreTrainedTokenizerBase, image_fit: ImageFit = "pad"
) -> LlavaProcessor:
    """The processor of a model around `tower`; each image token becomes (S / p) squared of them.

    Args:
        text_tokenizer: with the image token and a chat template. A copy is kept, which pads to the left, as
            generation needs it.
    """
    side = {"height": tower.image_size, "width": tower.image_size}
    image_processor = tower.image_processor()
    if image_fit != "resize":
        image_processor = LlavaImageProcessor(
            do_pad=image_fit == "pad",
            size=side if image_fit == "pad" else {"shortest_edge": tower.image_size},
            do_center_crop=image_fit == "crop",
            image_mean=list(tower.image_mean),
            image_std=list(tower.image_std),
        )
    image_processor.crop_size = (
        side  # where nothing is cropped, serving tools ask here how many tokens an image becomes
    )
    text_tokenizer = copy.deepcopy(text_tokenizer)
    text_tokenizer.padding_side = "left"
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=text_tokenizer,
        patch_size=tower.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE_TOKEN,
        chat_template=text_tokenizer.chat_template,
    )
