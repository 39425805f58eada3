"""Text tokenizers as files of the hub, written without transformers: Vicuna-v1.5's and Qwen's.

SentencePiece trains and writes `tokenizer.model` itself; of Qwen's files, the tokenizers library writes
`tokenizer.json`. The settings beside them are those of the published folders.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from text_tokenizers import SENTENCES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# How Qwen2.5 and Qwen3 cut text, from their tokenizer.json.
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = tuple(
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
)
# Added to the vocabulary, yet not special: they are text.
QWEN_WORDS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
)
QWEN3_WORDS = ("<tool_response>", "</tool_response>", "<think>", "</think>")
INTERNVL_SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>")


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@cache
def sentencepiece_model() -> bytes:
    """A `tokenizer.model` with Llama's settings: BPE, byte fallback, nothing normalised, `▁` put in front."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99995,
        add_dummy_prefix=True,
        pad_id=-1,
        minloglevel=2,
    )
    return written.getvalue()


def write_vicuna_text_tokenizer(folder: Path, legacy: bool | None = False) -> int:
    """As in lmsys/vicuna-7b-v1.5: no `tokenizer.json`. The number of its tokens.

    Args:
        legacy: the field of that name; None leaves it out, as older folders do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())

    def token(content: str) -> dict[str, Any]:
        shape = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        return {"content": content, **shape}

    named = {"bos_token": token("<s>"), "eos_token": token("</s>"), "unk_token": token("<unk>")}
    write_json(folder / "special_tokens_map.json", {**named, "pad_token": "<unk>"})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": False,
            **{name: {"__type": "AddedToken", **one} for name, one in named.items()},
            "clean_up_tokenization_spaces": False,
            **({} if legacy is None else {"legacy": legacy}),
            "model_max_length": 4096,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
        },
    )
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).vocab_size()


@cache
def _byte_level() -> str:
    """The tokenizers library's own JSON of a byte-level BPE, without added tokens."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(SENTENCES, trainer)
    return made.to_str()


def write_qwen_text_tokenizer(folder: Path, kind: str = "qwen2", more: tuple[str, ...] = ()) -> int:
    """As in Qwen/Qwen2.5-7B-Instruct (qwen2) or Qwen/Qwen3-0.6B (qwen3). The number of its tokens.

    Args:
        more: further special tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer.from_str(_byte_level())
    model = json.loads(made.to_str())["model"]
    write_json(folder / "vocab.json", model["vocab"])
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    words = QWEN_WORDS + (QWEN3_WORDS if kind == "qwen3" else ())
    made.add_special_tokens([AddedToken(token, normalized=False) for token in (*QWEN_SPECIAL, *more)])
    made.add_tokens([AddedToken(token, normalized=False) for token in words])
    made.save(str(folder / "tokenizer.json"))
    added = made.get_added_tokens_decoder()
    shape = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(index): {"content": token.content, **shape, "special": token.special}
                for index, token in sorted(added.items())
            },
            "additional_special_tokens": [*QWEN_SPECIAL[1:], *more],
            "bos_token": None,
            "chat_template": "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + "
            "message.content + '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    return made.get_vocab_size()
