"""A text tokenizer folder as old as LLaVA: a SentencePiece model, trained and written by SentencePiece, and settings.

As in Vicuna's vocabulary, `USER` is a piece and `▁USER` none: LLaVA's own masks count on it.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
from text_tokenizers import SENTENCES


@cache
def _model() -> bytes:
    lines = [line.removeprefix("USER: ") for sentence in SENTENCES for line in sentence.split("\n")]
    lines += ["two  blanks   and    more", "<image> is a word"]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines * 3, *["SUPERUSER xUSER aUSER"] * 20]),
        model_writer=written,
        model_type="bpe",
        vocab_size=500,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def write_llava_text_tokenizer(folder: Path, legacy: bool | None) -> Path:
    """`legacy` null leaves the field out, as folders older than it do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(_model())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "sp_model_kwargs": {},
        **({} if legacy is None else {"legacy": legacy}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder
