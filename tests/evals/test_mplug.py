"""mPLUG against modelscope's own class, whose answers to six questions stand in mplug_golden.json, and its files.

The golden values were made by `benchmarks/mplug/ask_modelscope.py` with the layout `SHALLOW` and its first six questions:
numbers of the first three words, at the first two places of each answer. `python -m benchmarks.mplug` compares all
words of all places, at the released depth.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_mplug import released_tensors, write_mplug

from benchmarks.mplug.layout import write_questions
from common.errors import UserError
from evals.dpg.mplug import released
from evals.dpg.mplug.judge import MplugJudge

GOLDEN = json.loads((Path(__file__).parent / "mplug_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mplug(tmp_path_factory.mktemp("mplug"))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A folder of its own, whose files are replaced and not written to."""
    return Path(shutil.copytree(folder, tmp_path / "copied", copy_function=os.link))


def replace(folder: Path, name: str, content: str | dict[str, Any]) -> None:
    (folder / name).unlink()
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        torch.save(content, folder / name)


@pytest.fixture(scope="module")
def judge(folder: Path) -> MplugJudge:
    return MplugJudge(folder, "cpu")


def test_answers_are_those_of_modelscopes_class(judge: MplugJudge, tmp_path: Path) -> None:
    for (name, question), golden in zip(write_questions(tmp_path, len(GOLDEN)), GOLDEN, strict=True):
        with Image.open(tmp_path / name) as picture:
            picture.load()
        ids, mask = judge.tokens([question])
        assert ids[0, mask[0] == 1].tolist() == golden["ids"]
        with torch.inference_mode():
            states, attended = judge.model.read(judge.model.see(judge.pixels(picture)), ids, mask)
            logits = judge.model.text_decoder(
                torch.tensor([golden["answer_ids"]]),
                encoder_hidden_states=states,
                encoder_attention_mask=attended,
            ).logits
        assert torch.allclose(logits[0, :2, :3], torch.tensor(golden["logits"]), atol=1e-4)
        assert judge.answer(picture, [question]) == [golden["answer"]]


def test_a_question_is_answered_the_same_beside_others(judge: MplugJudge, tmp_path: Path) -> None:
    asked = write_questions(tmp_path, 11)  # more than are asked at once
    with Image.open(tmp_path / asked[0][0]) as picture:
        picture.load()
    together = judge.answer(picture, [question for _, question in asked])
    assert together == [judge.answer(picture, [question])[0] for _, question in asked]
    assert len(set(together)) > 1


@pytest.mark.parametrize("wrapping", ["model", "module"])
def test_weights_are_read_however_they_are_wrapped(judge: MplugJudge, copied: Path, wrapping: str) -> None:
    wrapped = {wrapping: {f"model.{key}": value for key, value in released_tensors().items()}}
    replace(copied, released.WEIGHTS, wrapped)
    picture, question = Image.new("RGB", (30, 20), "red"), ["What is this?"]
    assert MplugJudge(copied, "cpu").answer(picture, question) == judge.answer(picture, question)


def test_the_decoders_last_matrix_may_be_left_out_as_it_is_the_embedding(
    judge: MplugJudge, copied: Path
) -> None:
    state = released_tensors()
    del state["text_decoder.cls.predictions.decoder.weight"]
    replace(copied, released.WEIGHTS, state)
    picture, question = Image.new("RGB", (30, 20), "red"), ["What is this?"]
    assert MplugJudge(copied, "cpu").answer(picture, question) == judge.answer(picture, question)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "configuration.json",
            '{"task": "image-captioning"}',
            "configuration.json: task: expected 'visual-question-",
        ),
        ("configuration.json", "{", "configuration.json: cannot be read"),
        ("config.yaml", "beam_size: [", "config.yaml: cannot be read"),
        ("config.yaml", "beam_size: many", "config.yaml, config_bert.json: missing or no number: .*'many'"),
        ("config.yaml", "bert_config: gone.json", "gone.json: cannot be read"),
        (
            "config.yaml",
            "image_res: 56",
            "pytorch_model.bin: not the network of config.yaml: .*position_embedding",
        ),
        ("config_bert.json", '{"hidden_size": 64}', "missing or no number: 'text_encoder_layers'"),
        ("pytorch_model.bin", "no weights", "pytorch_model.bin: cannot be read as weights"),
    ],
)
def test_what_is_amiss_is_one_line(copied: Path, file: str, content: str, reason: str) -> None:
    replace(copied, file, content)
    with pytest.raises(UserError, match=reason) as refused:
        MplugJudge(copied, "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            "fusion_encoder.encoder.layer.3.crossattention.self.key.weight",
            "fusion.2.crossattention.*: missing",
        ),
        ("visual_encoder.visual.ln_post.bias", "vision.post_layernorm.bias: missing"),
        ("visn_fc.weight", "visn_fc.weight: missing"),
        (None, "itm_head.weight: unknown"),
    ],
)
def test_weights_are_held_to_the_layout(copied: Path, key: str | None, reason: str) -> None:
    state = released_tensors()
    if key is None:
        state["itm_head.weight"] = torch.ones(2)
    else:
        del state[key]
    replace(copied, released.WEIGHTS, state)
    with pytest.raises(UserError, match=rf"pytorch_model.bin: {reason} \(1 such in all\)"):
        MplugJudge(copied, "cpu")


def test_only_the_released_sizes_bear_the_released_name(judge: MplugJudge, folder: Path) -> None:
    assert judge.identity["source"] == str(folder)


@pytest.mark.parametrize(
    ("home", "place"),
    [
        ("MODELSCOPE_CACHE", f"models/{released.NAME}"),
        ("MODELSCOPE_CACHE", f"models/{released.NAME.replace('/', '--')}/snapshots/master"),
        ("HOME", f".cache/modelscope/hub/{released.NAME}"),
        ("HOME", f".cache/modelscope/hub/models/{released.NAME}"),
    ],
)
def test_downloads_of_modelscopes_versions_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, place: str
) -> None:
    monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    assert released.find() is None
    (tmp_path / place).mkdir(parents=True)
    for name in ("configuration.json", "config.yaml"):
        (tmp_path / place / name).write_text("{}")
    monkeypatch.setenv(home, str(tmp_path))
    assert released.find() == tmp_path / place
    assert released.absent(tmp_path / place) == ["vocab.txt", "pytorch_model.bin"]
