"""What is told about the data before a run, and when a run would be refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny
from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer

from common.config import dump_config
from common.errors import UserError
from understanding import preflight


def recipe(folder: Path, *overrides: str, family: str = "llama") -> Path:
    """Fine-tuning on 12 conversations, 8 of them with a picture; only what preflight reads is there."""
    tiny.write_conversations(folder)
    made = llama_text_tokenizer() if family == "llama" else qwen_text_tokenizer()
    made.save_pretrained(folder / family)
    (folder / f"{family}.json").write_text(
        json.dumps(
            {
                "model_type": family,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": len(made),
            }
        )
    )
    config = tiny.understanding_recipe(folder, folder / "run", *tiny.FINE_TUNING, *overrides, kind=family)
    path = folder / "recipe.yaml"
    path.write_text(dump_config(config))
    return path


def test_a_sound_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # which a run in this process leaves
    preflight.main(["--config", str(recipe(tmp_path)), "--decode"])
    told = capsys.readouterr().out
    assert re.search(r"^samples +12, of which 12 can be used$", told, re.M)
    assert re.search(r"^skipped +0 \(0\.00%, at most 1\.00%\)$", told, re.M)
    assert re.search(r"^images +8, in 8 samples; 16 tokens each$", told, re.M)
    assert "USER: <image> x 16" in told
    assert "What color is the large triangle? ASSISTANT:⟦ red</s>⟧USER: Describe it" in told
    assert (tmp_path / "run" / "preflight.txt").read_text() == ""
    assert re.search(
        r"^asked for +[\d,]+ pictures/s by each H100 at 40% of its peak, [\d,]+ by 8$", told, re.M
    )
    assert re.search(r"^decoding +[\d,]+ pictures/s on one core", told, re.M)


def test_what_would_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, "data.max_skipped_share=0.3")
    (tmp_path / "images" / "003.png").unlink()
    sound = (tmp_path / "images" / "004.png").read_bytes()
    (tmp_path / "images" / "004.png").write_bytes(sound[: len(sound) // 2])
    annotations = tmp_path / "conversations.json"
    records = json.loads(annotations.read_text())
    records[11]["conversations"][0]["from"] = "narrator"
    annotations.write_text(json.dumps(records))

    preflight.main(["--config", str(path)])
    told = capsys.readouterr().out
    assert (
        "12, of which 10 can be used" in told and "1   missing image" in told and "1   unknown role" in told
    )

    preflight.main(["--config", str(path), "--decode"])  # half a picture has a sound header
    told = capsys.readouterr().out
    assert "12, of which 9 can be used" in told and "1   corrupt image" in told
    lines = (tmp_path / "run" / "preflight.txt").read_text().splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        [str(annotations), "3", "missing image"],
        [str(annotations), "4", "corrupt image"],
        [str(annotations), "11", "unknown role"],
    ]

    with pytest.raises(
        UserError, match=r"2 of 12 training samples would be left out, .* \(0\.1\); see .*preflight"
    ):
        preflight.main(["--config", str(path), "data.max_skipped_share=0.1"])


def test_held_out_data_is_looked_through_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path)
    source = f"{{annotations: {tmp_path / 'conversations.json'}, images: {tmp_path / 'nowhere'}}}"
    with pytest.raises(UserError, match="4 of 4 held out samples would be left out"):
        preflight.main(["--config", str(path), f"evaluation.source={source}", "evaluation.limit=4"])
    assert "held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "overrides", "complaint"),
    [
        ("llama", ["model.template=qwen"], "model.template: qwen needs"),
        ("qwen", ["model.template=vicuna_v1"], "model.template: vicuna_v1 needs </s>"),
        (
            "llama",
            ["model.language_model.source=gone/a/b"],
            "gone/a/b: model.language_model.source: no text tok",
        ),
        ("llama", ["model.language_model.pad_token=<none>"], "pad_token: <none> is not in the vocabulary"),
        (
            "llama",
            ["data.sources.0.annotations=gone.json"],
            "gone.json: data.sources.annotations: No such file",
        ),
        ("llama", ["data.sources.0.subset=x"], "subset, split, revision: only `hub` sources have them"),
        ("llama", ["data.sources.0.kind=shards", "data.sources.0.annotations=gone-*.tar"], "no shards found"),
        ("llama", ["data.sources.0.conversation_column=talk"], "the first: empty conversation"),
        ("llama", ["data.max_length=16"], "data.max_length: 16 leaves no room"),
        ("llama", ["output=/proc/none"], "preflight.txt: cannot be written"),
    ],
)
def test_bad_input_is_one_line(family: str, overrides: list[str], complaint: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, *(["model.template=qwen"] if family == "qwen" else []), family=family)
    with pytest.raises(UserError, match=complaint) as error:
        preflight.main(["--config", str(path), *overrides])
    assert "\n" not in str(error.value)


def test_real_photographs(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = photographs / "coco128" / "llava_conversations.json"
    if not annotations.is_file():
        pytest.skip("no coco128 there")
    source = f"{{annotations: {annotations}, images: {annotations.parent}, samples: 126}}"
    overrides = [f"data.sources=[{source}]", "data.max_length=400"]
    preflight.main(["--config", str(recipe(tmp_path)), "--decode", *overrides])
    assert "126, of which 126 can be used" in capsys.readouterr().out
