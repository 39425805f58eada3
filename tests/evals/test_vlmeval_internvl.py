"""InternVL as VLMEvalKit asks it: the last step, which is ours. benchmarks/vlmevalkit_prompts.py compares the whole."""

from __future__ import annotations

from pathlib import Path

import hub_layouts
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.errors import UserError
from evals.vlmeval.documents import write_rows
from evals.vlmeval.internvl import SYSTEM, Checkpoint

QUESTION = "Image-1: <image>\nImage-2: <image>\nWhich <image>?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("internvl")
    hub_layouts.write_internvl(folder, size=448, patch=56)
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return Checkpoint(model, AutoProcessor.from_pretrained(folder), str(folder))


def test_the_system_text_stands_in_front_and_tiles_are_tokens(checkpoint: Checkpoint) -> None:
    each = checkpoint.processor.image_seq_length
    one, two = (f"<img>{'<IMG_CONTEXT>' * (each * tiles)}</img>" for tiles in (3, 1))
    assert checkpoint.prompt(QUESTION, [3, 1]) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"Image-1: {one}\nImage-2: {two}\nWhich <image>?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert f"user\n{two}\nWhat?<|im_end|>" in checkpoint.prompt("What?", [1])
    assert "user\nWhat?<|im_end|>" in checkpoint.prompt("What?", [])


def test_the_answer_is_the_likeliest_and_what_was_cut_is_told(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one token at a time, without the library's `generate`."""
    pixels = torch.randn(4, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    tokenizer, model = checkpoint.processor.tokenizer, checkpoint.model
    said = checkpoint.chat(tokenizer, pixels, QUESTION, {"max_new_tokens": 6}, [3, 1])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = tokenizer(checkpoint.prompt(QUESTION, [3, 1]), return_tensors="pt").input_ids
    prompt = ids.shape[1]
    with torch.inference_mode():
        while ids.shape[1] < prompt + 6 and ids[0, -1] != end:
            likeliest = model(input_ids=ids, pixel_values=pixels).logits[0, -1].argmax()
            ids = torch.cat([ids, likeliest[None, None]], dim=1)
    assert said == tokenizer.decode(ids[0, prompt:], skip_special_tokens=True).strip()
    assert checkpoint.cut is (ids[0, -1] != end).item()
    monkeypatch.setattr(
        model, "generate", lambda **given: torch.cat([ids[:, :prompt], torch.tensor([[9, end]])], 1)
    )
    checkpoint.chat(tokenizer, pixels, QUESTION, {"max_new_tokens": 2}, [3, 1])
    assert not checkpoint.cut, "an answer that ends with its last token is whole"


def test_without_a_model_it_listens(folder: Path) -> None:
    ears = Checkpoint(None, AutoProcessor.from_pretrained(folder), str(folder))
    assert ears.chat(None, None, "What?", {"max_new_tokens": 9, "temperature": 0.6}) == ""
    assert ears.heard == [[ears.prompt("What?", []), {"max_new_tokens": 9}]]


def test_tiles_of_another_size_are_refused(tmp_path: Path) -> None:
    hub_layouts.write_internvl(tmp_path)
    with pytest.raises(UserError, match=r"preprocessor_config.json: .*448 px.*found \(28, 28"):
        Checkpoint(None, AutoProcessor.from_pretrained(tmp_path), str(tmp_path))


def test_made_up_rows_have_the_columns_of_the_kit(tmp_path: Path) -> None:
    rows = write_rows("MMMU_DEV_VAL", tmp_path)
    assert len(rows) == 20 and {len(row["pictures"]) for row in rows} == {1, 2, 3, 4}
    assert sum("A" not in row for row in rows) == 3  # open questions
    assert all(Path(path).is_file() for row in rows for path in row["pictures"])
