"""An export whose text tokenizer would give other ids than training had ends in one line and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer
from tiny_chat import write_chat_model
from transformers import LlavaProcessor

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from understanding.processor import build_processor
from understanding.served import check_served
from understanding.text_tokenizer import prepare_text_tokenizer

MADE = {"vicuna_v1": llama_text_tokenizer, "plain": llama_text_tokenizer, "qwen": qwen_text_tokenizer}


def processor_of(template: str) -> LlavaProcessor:
    return build_processor(build_encoder(tiny.SIGLIP), prepare_text_tokenizer(MADE[template](), template))


def write(folder: Path, processor: LlavaProcessor) -> Path:
    processor.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


@pytest.mark.parametrize("template", MADE)
def test_a_good_folder_passes(template: str, tmp_path: Path) -> None:
    processor = processor_of(template)
    check_served(write(tmp_path, processor), processor, 16)


def other_word_starts(folder: Path) -> None:
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["pre_tokenizer"]["prepend_scheme"] = "always"
    (folder / "tokenizer.json").write_text(json.dumps(rules))


def no_image_token(folder: Path) -> None:
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] != "<image>"]
    (folder / "tokenizer.json").write_text(json.dumps(rules))


def other_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("set gap = ' '", "set gap = ''"))


def other_patches(folder: Path) -> None:
    path = folder / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": 2}))


@pytest.mark.parametrize("damage", [other_word_starts, no_image_token, other_template, other_patches])
def test_a_folder_that_would_serve_other_ids_is_refused(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    processor = processor_of("vicuna_v1")
    damage(write(tmp_path / "model", processor))
    with pytest.raises(UserError, match=r"^model: ") as raised:
        check_served(tmp_path / "model", processor, 16)
    assert "\n" not in str(raised.value)


def test_the_export_ends_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tiny.write_understanding_shelf(tmp_path / "shelf")
    folder = write_chat_model(shelf, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def damaged(unfinished: Path, *rest: Any) -> None:
        other_word_starts(unfinished)
        check_served(unfinished, *rest)

    monkeypatch.setattr("understanding.export.check_served", damaged)
    torch.manual_seed(1)
    with pytest.raises(
        UserError, match=r"other ids than training had, so nothing is exported: token \d+ of '"
    ):
        write_chat_model(shelf, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "shelf"]
