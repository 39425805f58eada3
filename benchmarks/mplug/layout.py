"""The released layout without weights, and questions about random pictures."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = (
    "is there a red ball in this picture what color the dog of two cats left on yes no how many are was it and to "
    "left right large small photo painting ##s ##ing ##ed ##er"
)
TYPED = (
    *WORDS.upper().split()[:20],
    *WORDS.split()[:20],
    "ball's",
    "colör",
    "Umbrella?",
    "什么",
    "x-ray",
    "3",
)


@dataclass(frozen=True)
class Sizes:
    """What the configs say. `width` is BERT's; the vision tower's is 1024, modelscope's class has no other."""

    image_size: int = 504
    vision_layers: int = 24
    clip_text: tuple[int, int, int] = (12, 768, 49408)
    """Layers, width and words of CLIP's text tower, which nothing reads."""
    width: int = 768
    text_layers: int = 6
    fusion_layers: int = 6
    layers: int = 12
    """The decoder's, and the fusion encoder's, of which the last `fusion_layers` are run."""
    stride: int = 3
    words: int = 30522


SHALLOW = Sizes(28, 1, (1, 64, 100), 64, 2, 3, 4, 2, 300)


def write_layout(folder: Path, sizes: Sizes) -> None:
    """configuration.json, config.yaml, config_bert.json and vocab.txt, as released."""
    folder.mkdir(parents=True, exist_ok=True)
    task = "visual-question-answering"
    described = {"framework": "pytorch", "task": task, "model": {"type": "mplug"}, "pipeline": {"type": task}}
    (folder / "configuration.json").write_text(json.dumps(described))
    settings = {
        "bert_config": "config_bert.json",
        "image_res": sizes.image_size,
        "clip_name": "ViT-L-14",
        "clip_vision_layers": sizes.vision_layers,
        "clip_transformer_layers": sizes.clip_text[0],
        "clip_transformer_width": sizes.clip_text[1],
        "clip_transformer_heads": sizes.clip_text[1] // 64,
        "clip_vocab_size": sizes.clip_text[2],
        "distill": "false",
    }
    (folder / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    (folder / "config_bert.json").write_text(json.dumps(bert_config(sizes)))
    (folder / "vocab.txt").write_text("\n".join(vocabulary(sizes.words)) + "\n")


def bert_config(sizes: Sizes) -> dict[str, Any]:
    """The released one but for sizes."""
    return {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": sizes.width,
        "initializer_range": 0.02,
        "intermediate_size": 4 * sizes.width,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": sizes.width // 64 or 1,
        "num_hidden_layers": sizes.layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": sizes.words,
        "encoder_width": sizes.width,
        "add_cross_attention": False,
        "use_cache": False,
        "gradient_checkpointing": False,
        "text_encoder_layers": sizes.text_layers,
        "fusion_layers": sizes.fusion_layers,
        "text_decode_layers": sizes.layers,
        "stride_layer": sizes.stride,
    }


def vocabulary(words: int) -> list[str]:
    """As BERT's: special tokens at their places, letters alone and inside words, and then words."""
    letters = string.ascii_lowercase + string.digits
    known = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known += [*letters, *string.punctuation, *(f"##{letter}" for letter in letters)]
    known += [word for word in dict.fromkeys(WORDS.split()) if word not in known]
    return known + [f"word{i}" for i in range(words - len(known))]


def write_questions(folder: Path, count: int) -> list[tuple[str, str]]:
    """Random pictures of any shape and mode, and a question about each: (name of the file in `folder`, question)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    asked = []
    for number in range(count):
        height, width, coarse = (int(n) for n in (*rng.integers(24, 640, 2), rng.integers(2, 24)))
        rough = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
        picture = rough.resize((width, height), Image.Resampling.BICUBIC)
        name = f"{number:03d}.png"
        picture.convert(("RGB", "RGBA", "L", "RGB")[number % 4]).save(folder / name)
        asked.append((name, " ".join(rng.choice(TYPED, int(rng.integers(1, 32))))))
    (folder / "asked.json").write_text(json.dumps(asked))
    return asked
