"""A text tokenizer of the hub is loaded as its own library reads it; of a damaged one the cause is told."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hub_tokenizers import sentencepiece_model, write_qwen_text_tokenizer, write_vicuna_text_tokenizer
from text_tokenizers import SENTENCES
from tokenizers import Tokenizer

from common.errors import UserError
from common.language.causal_lm import load_text_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9e556afd\nsize 499723\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Entry not found</body></html>"
TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\nJA== 3\n"


@pytest.fixture
def vicuna(tmp_path: Path) -> Path:
    write_vicuna_text_tokenizer(tmp_path / "vicuna")
    (tmp_path / "vicuna" / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path / "vicuna"


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    write_qwen_text_tokenizer(tmp_path / "qwen")
    (tmp_path / "qwen" / "config.json").write_text('{"model_type": "qwen2"}')
    return tmp_path / "qwen"


def complaint(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_text_tokenizer(folder, "model.language_model.source: ")
    said = str(error.value)
    start = f"{folder}: model.language_model.source: no text tokenizer can be loaded: "
    assert said.startswith(start) and "\n" not in said and len(said) < 700
    return said.removeprefix(start)


@pytest.mark.parametrize("legacy", [True, False, None])
def test_a_tokenizer_model_alone_is_read_as_sentencepiece_reads_it(
    legacy: bool | None, tmp_path: Path
) -> None:
    tokens = write_vicuna_text_tokenizer(tmp_path, legacy)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    text_tokenizer = load_text_tokenizer(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    assert len(text_tokenizer) == tokens == own.vocab_size()
    for text in (*SENTENCES, "Größe 42, 漢字\n\tend ", "?"):
        assert text_tokenizer(text).input_ids == [1, *own.encode(text)], text
        assert text_tokenizer.decode(text_tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kept", [("tokenizer.json",), ("vocab.json", "merges.txt")])
def test_qwens_files_are_read_as_tokenizers_reads_them(kept: tuple[str, ...], qwen: Path) -> None:
    """Both forms hold all there is, and each alone gives the same ids."""
    own = Tokenizer.from_file(str(qwen / "tokenizer.json"))
    for name in {"tokenizer.json", "vocab.json", "merges.txt"} - set(kept):
        (qwen / name).unlink()
    text_tokenizer = load_text_tokenizer(qwen)
    assert len(text_tokenizer) == own.get_vocab_size()
    for text in (*SENTENCES, "<|im_start|>user\nGröße 42 漢<|im_end|>"):
        assert text_tokenizer(text).input_ids == own.encode(text).ids


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (POINTER, "a Git LFS pointer in place of the file"),
        (PAGE, "a web page in place of the file"),
        (TIKTOKEN, "no SentencePiece model"),
        (bytes(1000), "no SentencePiece model"),
        (b"PK\x03\x04" + bytes(500), "no SentencePiece model"),
        (
            sentencepiece_model()[: len(sentencepiece_model()) // 2],
            "no SentencePiece model, or a damaged one",
        ),
        (sentencepiece_model()[:-3], "no SentencePiece model, or a damaged one"),
    ],
    ids=["empty", "blank", "pointer", "page", "tiktoken", "zeros", "zip", "half", "short"],
)
def test_a_damaged_tokenizer_model(content: bytes, cause: str, vicuna: Path) -> None:
    (vicuna / "tokenizer.model").write_bytes(content)
    said = complaint(vicuna)
    assert said.startswith(f"tokenizer.model: {cause}") and "Error parsing line" not in said


def test_a_tokenizer_model_that_ends_between_two_tokens(vicuna: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    for field in ("trainer_spec", "normalizer_spec"):
        model.ClearField(field)
    (vicuna / "tokenizer.model").write_bytes(model.SerializeToString())
    assert complaint(vicuna).startswith("tokenizer.model: no SentencePiece model, or a damaged one")


def test_a_proto_that_does_not_fit_its_library(vicuna: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What generated code raises beside an older protobuf, when it is imported."""

    class Misfit:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "sentencepiece.sentencepiece_model_pb2":
                raise RuntimeError(
                    "Detected incompatible Protobuf Gencode/Runtime versions: gencode 7 runtime 6"
                )

    monkeypatch.delitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Misfit, *sys.meta_path])
    assert complaint(vicuna).startswith(
        "tokenizer.model: sentencepiece, which reads it, cannot be imported (see constraints.txt): Detected"
    )


def slow_tokenizers() -> Any:
    """The module; as an attribute of transformers it is, once used, the function of that name."""
    return importlib.import_module("transformers.convert_slow_tokenizer")


def test_what_transformers_swallows_is_told(vicuna: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of its own that no look at the files foresees: it warns, goes on, and fails with tiktoken's."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("precompiled_charsmap of a kind to come")

    monkeypatch.setattr(slow_tokenizers().SentencePieceExtractor, "extract", fail)
    said = complaint(vicuna)
    assert "precompiled_charsmap of a kind to come" in said
    assert said.index("precompiled_charsmap") < said.index("Error parsing line")


def test_tokens_that_went_missing_on_the_way_are_noticed(
    vicuna: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(self: Any, model_type: Any, **options: Any) -> dict[str, Any]:
        return {**options, "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2}, "merges": []}

    monkeypatch.setattr(slow_tokenizers().SentencePieceExtractor, "extract", forget)
    assert complaint(vicuna) == "transformers made 3 tokens of 420 in the files"


def replaced(**fields: Any) -> Callable[[dict[str, Any]], str]:
    return lambda whole: json.dumps({**whole, **fields})


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (lambda whole: json.dumps(whole)[:5000], "tokenizers .* cannot read it: EOF while parsing"),
        (lambda whole: "", "empty"),
        (lambda whole: POINTER.decode(), "a Git LFS pointer"),
        (lambda whole: PAGE.decode(), "a web page"),
        (lambda whole: "[]", "tokenizers .* cannot read it: invalid type: sequence"),
        (lambda whole: "{}", "tokenizers .* cannot read it: Model missing"),
        (replaced(version="2.0"), "tokenizers .* cannot read it: Unknown tokenizer version '2.0'"),
        (replaced(pre_tokenizer={"type": "Neural"}), "tokenizers .* cannot read it: .*PreTokenizer"),
        (
            lambda whole: replaced(model={**whole["model"], "type": "NewBPE"})(whole),
            "tokenizers .* cannot read it",
        ),
        (
            lambda whole: replaced(model={**whole["model"], "merges": [["q", "zzz"]]})(whole),
            ".*zzz.* out of voc",
        ),
        (
            lambda whole: replaced(model={**whole["model"], "vocab": {}, "merges": []})(whole),
            "holds no tokens",
        ),
    ],
    ids=["half", "empty", "pointer", "page", "list", "object", "version", "pre", "model", "merge", "bare"],
)
def test_a_damaged_tokenizer_json(write: Callable[[dict[str, Any]], str], cause: str, qwen: Path) -> None:
    import re

    whole = json.loads((qwen / "tokenizer.json").read_text())
    (qwen / "tokenizer.json").write_text(write(whole))
    assert re.match(rf"tokenizer\.json: {cause}", complaint(qwen))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (
            {"tokenizer.model": None},
            "none there (tokenizer.json, tokenizer.model, or vocab.json beside merges.txt)",
        ),
        ({"tokenizer_config.json": None}, "{folder}/tokenizer_config.json: cannot be read: No such file"),
        ({"tokenizer_config.json": "{"}, "{folder}/tokenizer_config.json: cannot be read: Expecting"),
        (
            {"tokenizer_config.json": "[]"},
            "{folder}/tokenizer_config.json: expected a JSON object, found list",
        ),
        (
            {
                "tokenizer_config.json": '{"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["a.B"]}}'
            },
            "tokenizer_config.json: tokenizer_class: 'OwnTokenizer' is none that transformers knows",
        ),
        ({"special_tokens_map.json": "{"}, "{folder}/special_tokens_map.json: cannot be read"),
        ({"added_tokens.json": "[1]"}, "{folder}/added_tokens.json: expected a JSON object, found list"),
        ({"config.json": "{"}, "It looks like the config file at"),
    ],
)
def test_damaged_settings(damage: dict[str, str | None], cause: str, vicuna: Path) -> None:
    for name, content in damage.items():
        (vicuna / name).unlink(missing_ok=True)
        if content is not None:
            (vicuna / name).write_text(content)
    assert complaint(vicuna).startswith(cause.format(folder=vicuna))


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("merges.txt", None, "merges.txt: absent, and no tokenizer.json either"),
        ("vocab.json", None, "vocab.json: absent, and no tokenizer.json either"),
        ("merges.txt", "#version: 0.2\n", "merges.txt: holds no merges"),
        ("merges.txt", POINTER.decode(), "merges.txt: a Git LFS pointer"),
        ("vocab.json", PAGE.decode(), "vocab.json: a web page"),
        ("vocab.json", '{"a": 0}', "vocab.json, merges.txt: tokenizers"),
    ],
)
def test_one_of_two_files(name: str, content: str | None, cause: str, qwen: Path) -> None:
    (qwen / "tokenizer.json").unlink()
    (qwen / name).unlink()
    if content is not None:
        (qwen / name).write_text(content)
    assert complaint(qwen).startswith(cause)


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert complaint(tmp_path).startswith("none there")
