"""The files of a text tokenizer, each read by the library it is meant for before transformers reads them together.

Where one path fails, transformers takes another, and what it says is the last one's error: a `tokenizer.model` that
SentencePiece cannot read is taken for tiktoken's, and an absent or empty one leaves a vocabulary of three tokens
without a word. Here the first failure is the one that is told.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from common.errors import UserError, one_line, refusing
from common.models.weight_files import read_config_json, refuse_stand_in

SETTINGS = "tokenizer_config.json"  # states which class reads the others; without it transformers guesses
MORE_SETTINGS = ("special_tokens_map.json", "added_tokens.json")
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
BYTE_LEVEL = ("vocab.json", "merges.txt")
DOWNLOADED = ("*.json", *SENTENCEPIECE, "merges.txt", "*.jinja")
"""Patterns of all that transformers reads for a text tokenizer, `config.json` included."""


def check_files(folder: Path) -> int:
    """Read the files of `folder` that a text tokenizer is made from; how many tokens they hold, added ones aside.

    Raises:
        UserError: there are none, or one is damaged, of another kind or version, or a mere stand-in for a file.
    """
    tokens = _vocabulary(folder)
    for name in MORE_SETTINGS:
        if (folder / name).exists():
            read_config_json(folder, name)
    _check_class(read_config_json(folder, SETTINGS).get("tokenizer_class"))
    return tokens


def _vocabulary(folder: Path) -> int:
    """Of the file that transformers would take, which is the first of these."""
    if (folder / "tokenizer.json").exists():
        return _fast(folder / "tokenizer.json")
    for name in SENTENCEPIECE:
        if (folder / name).exists():
            return _sentencepiece(folder / name)
    if any((folder / name).exists() for name in BYTE_LEVEL):
        return _byte_level(*(folder / name for name in BYTE_LEVEL))
    raise UserError("none there (tokenizer.json, tokenizer.model, or vocab.json beside merges.txt)")


@contextmanager
def overhearing() -> Iterator[None]:
    """Inside, an error of transformers is told with what the library warned of before it: the cause may be there."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.tokenization_utils_tokenizers")
    logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        if not heard:
            raise
        raise UserError(f"{'; '.join(heard)} ({one_line(error)})") from error
    finally:
        logger.removeHandler(handler)


def _check_class(name: object) -> None:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    known = isinstance(name, str) and any(map(tokenizer_class_from_name, (name, name.removesuffix("Fast"))))
    if name is not None and not known:
        raise UserError(f"{SETTINGS}: tokenizer_class: {name!r} is none that transformers knows")


def _fast(path: Path) -> int:
    """`tokenizer.json`, the tokenizers library's own."""
    refuse_stand_in(path)
    with refusing(f"{path.name}: tokenizers {tokenizers.__version__} cannot read it"):
        read = tokenizers.Tokenizer.from_file(str(path))
    return _some(path, read.get_vocab_size(with_added_tokens=False))


def _sentencepiece(path: Path) -> int:
    """A SentencePiece model, by that library, and by the generated code through which transformers reads it."""
    refuse_stand_in(path)
    with refusing(f"{path.name}: sentencepiece, which reads it, cannot be imported (see constraints.txt)"):
        from sentencepiece import SentencePieceProcessor

        proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    with refusing(f"{path.name}: no SentencePiece model, or a damaged one"):
        whole = path.read_bytes()
        SentencePieceProcessor(model_proto=whole)
        model = proto.ModelProto.FromString(whole)
    if not model.HasField("trainer_spec"):  # written behind the tokens
        raise UserError(f"{path.name}: no SentencePiece model, or a damaged one: it ends before its settings")
    return _some(path, len(model.pieces))


def _byte_level(vocabulary: Path, merges: Path) -> int:
    """GPT-2's two files, as Qwen has them."""
    for path in (vocabulary, merges):
        if not path.is_file():
            raise UserError(f"{path.name}: absent, and no tokenizer.json either")
        refuse_stand_in(path)
    with refusing(f"{vocabulary.name}, {merges.name}: tokenizers {tokenizers.__version__} cannot read them"):
        tokens, pairs = tokenizers.models.BPE.read_file(str(vocabulary), str(merges))
        tokenizers.models.BPE(vocab=tokens, merges=pairs)
    _some(merges, len(pairs), "merges")
    return _some(vocabulary, len(tokens))


def _some(path: Path, count: int, called: str = "tokens") -> int:
    if not count:
        raise UserError(f"{path.name}: holds no {called}")
    return count
