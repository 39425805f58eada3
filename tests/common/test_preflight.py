"""A look at the data of a tokenizer or a generator before it is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
from image_sets import encoded, make_folder, make_parquet, make_shards

from common.config import dump_config
from common.data.config import DataConfig, SourceConfig
from common.data.open import open_source
from common.data.sources import Account, RawImage
from common.errors import UserError
from common.preflight.command import parser
from common.preflight.demand import Demand
from common.preflight.looking import Looked, look_through, spread
from common.preflight.page import source_lines
from generation import extract_codes
from generation import preflight as generation
from tokenizer import preflight as tokenizer


def looked_at(source: Any, samples: int | None = None, **options: Any) -> Looked:
    config = SourceConfig(kind="folder", path="nowhere")
    looked = Looked("data.sources.0", source.name, source.account())
    data = DataConfig(image_size=8, sources=(config,))
    look_through(looked, source, data, 0, samples, lambda: None, **options)
    return looked


def test_a_sample_is_spread_over_the_whole_length() -> None:
    found = list(spread(1000, 10, seed=0))
    assert [place // 100 for place in found] == list(range(10))
    assert found != list(spread(1000, 10, seed=1)) and found == list(spread(1000, 10, seed=0))
    assert list(spread(3, 10, seed=0)) == list(spread(3, None, seed=0)) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["folder", "shards", "hub", "stream"])
def test_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        config = make_folder(tmp_path / "set", 12)
    elif kind == "shards":
        config = make_shards(tmp_path / "set", [7, 5])
    else:
        config = make_parquet(tmp_path / "set", [7, 5], streaming=kind == "stream")
    captions: list[str] = []
    looked = looked_at(open_source(config), 6, each=lambda caption, where: captions.append(caption))
    assert looked.tried == 6 and looked.problems == [] and looked.sizes == [(8, 8)] * 6
    assert looked.twins == 0 and looked.per_second is not None and len(looked.waits) == 6
    assert captions == [caption for caption in looked.captions if caption]
    assert all(caption.startswith("number ") for caption in captions)
    assert len(captions) == (
        6 if kind != "folder" else sum(caption is not None for caption in looked.captions)
    )


class Broken:
    """Pictures of which each fails in a way of its own; one has a twin."""

    name = "broken"

    def __len__(self) -> int:
        return 6

    def account(self) -> Account:
        return Account(6, 0, {".heic": 38, "no pictures": 2})

    def sample(self, position: int, seed: int) -> RawImage:
        if position == 0:
            raise UserError("broken.tar: cannot be read: Input/output error")
        if position == 1:
            raise RuntimeError("a library of its own mind")
        return RawImage(f"{position}", [b"", encoded(1)[:50], encoded(2), encoded(2)][position - 2])


def test_whatever_a_picture_raises_is_counted_and_named() -> None:
    looked = looked_at(Broken(), 6)
    assert looked.problems == [
        "broken/sample 0: broken.tar: cannot be read: Input/output error",
        "broken/sample 1: RuntimeError: a library of its own mind",
        "broken/2: not an image: an empty file",
        looked.problems[3],
    ]
    assert looked.problems[3].startswith("broken/3: ") and looked.twins == 1
    data = DataConfig(image_size=16, sources=(SourceConfig(kind="folder", path="x"),))
    lines = source_lines(looked, data, captions=True)
    assert (
        "  looked at      6 pictures, 4 cannot be read (66.67%, data.max_corrupt_share allows 1.00%)" in lines
    )
    assert lines[0].endswith("broken: 6 pictures, 0 with a caption; left out: 38 .heic, 2 no pictures")
    assert "  shorter side   8 to 8 px, median 8; 2 (100%) are enlarged to data.image_size, 16" in lines
    assert any("twins          1 are" in line for line in lines)


def test_decoding_is_held_against_the_gpus() -> None:
    demand = Demand(flops=989e12 / 1000, gpu="H100", gpus=8, mfu=0.4)
    assert demand.per_gpu == pytest.approx(400)
    asked, enough = demand.lines(per_core=150.0, workers=3)
    assert "400 pictures/s by each H100 at 40% of its peak, 3,200 by 8" in asked
    assert (
        "150 pictures/s on one core" in enough
        and "3 workers a GPU are needed" in enough
        and "enough" in enough
    )
    assert (
        "3 workers a GPU are needed, data.workers is 2: too few, the GPUs would wait"
        in demand.lines(150.0, workers=2)[1]
    )
    assert len(demand.lines(None, 4)) == 1


@pytest.mark.parametrize(
    "arguments",
    [["--samples", "0"], ["--samples", "few"], ["--mfu", "0"], ["--mfu", "x"], ["--gpu", "abacus"]],
)
def test_arguments_have_their_ranges(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parser("").parse_args(["--config", "x.yaml", *arguments])
    assert error.value.code == 2 and arguments[0] in capsys.readouterr().err


# ---- The two commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("preflight"), pictures=16)


def run(job: str, shelf: Path, folder: Path, *overrides: str, options: tuple[str, ...] = ()) -> None:
    """A preflight of 16 training pictures in `folder/images` and four held-out ones."""
    if not (folder / "images").exists():
        tiny.write_pictures(folder / "images", 16, seed=1)
        tiny.write_pictures(folder / "held_out", 4, seed=2)
        lines = [{"file_name": f"{n:03d}.png", "caption": f"a photo of {n} clocks"} for n in range(16)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        for name in ("images", "held_out"):
            (folder / name / "captions.jsonl").write_text(text)
    source = f"data.sources.0.path={folder / 'images'}"
    recipe = folder / "recipe.yaml"
    if job == "tokenizer":
        held_out = f"evaluation.images={folder / 'held_out'}"
        config: Any = tiny.tokenizer_recipe(shelf / "images", folder / "run", source, held_out)
    else:
        held_out = f"evaluation.source.path={folder / 'held_out'}"
        config = tiny_generator.recipe(shelf, folder / "run", source, held_out)
    recipe.write_text(dump_config(config))
    module = tokenizer if job == "tokenizer" else generation
    module.main(["--config", str(recipe), *options, *overrides])


@pytest.mark.parametrize("job", ["tokenizer", "generation"])
def test_a_sound_set(job: str, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(job, shelf, tmp_path, options=("--gpus", "2", "--gpu", "A100"))
    told = capsys.readouterr().out
    assert re.search(r"^data\.sources\.0 +\S+images: 16 pictures", told, re.M) and "evaluation." in told
    assert "16 pictures, 0 cannot be read" in told and "4 pictures, 0 cannot be read" in told
    assert re.search(r"by each A100 at 40% of its peak .*by 2$", told, re.M)
    assert "workers a GPU are needed, data.workers is 0" in told
    assert (tmp_path / "run" / "preflight.txt").read_text() == ""
    if job == "generation":
        assert "captions       100.0% have one" in told and "16 captions looked at" in told


@pytest.mark.parametrize("job", ["tokenizer", "generation"])
def test_damage_is_named_and_refused_beyond_the_share(
    job: str, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(job, shelf, tmp_path)
    for name in ("images/003.png", "held_out/001.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    with pytest.raises(
        UserError, match=r"25\.00% of the pictures looked at cannot be read.*\(0\.05\) \(and 1 more"
    ) as error:
        run(job, shelf, tmp_path, "data.max_corrupt_share=0.05")
    assert "\n" not in str(error.value)
    lines = (tmp_path / "run" / "preflight.txt").read_text().splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["003.png", "001.png"]
    run(job, shelf, tmp_path, "data.max_corrupt_share=0.25")
    # The share is that of the mixture: the damaged source is a hundredth of it.
    sound = f"{{kind: folder, path: {shelf / 'images'}, weight: 99}}"
    sources = f"data.sources=[{{kind: folder, path: {tmp_path / 'images'}}}, {sound}]"
    (tmp_path / "held_out" / "001.png").unlink()
    run(job, shelf, tmp_path, sources)
    capsys.readouterr()


@pytest.mark.parametrize("job", ["tokenizer", "generation"])
def test_sources_that_cannot_be_opened_are_all_named(
    job: str, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [f"{{kind: folder, path: {tmp_path / name}}}" for name in ("gone", "lost")]
    with pytest.raises(UserError, match=r"data\.sources\.0: .*gone: no such folder \(and 1 more"):
        run(job, shelf, tmp_path, f"data.sources=[{', '.join(gone)}]")
    told = capsys.readouterr().out
    assert "lost: no such folder" in told and "evaluation." in told


def test_held_out_pictures_that_are_trained_on_are_told(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("tokenizer", shelf, tmp_path)
    assert "warning" not in capsys.readouterr().out
    run("tokenizer", shelf, tmp_path, f"evaluation.images={tmp_path / 'images'}")
    assert "its pictures are among those of data.sources.0" in capsys.readouterr().out
    (tmp_path / "held_out" / "copy.png").write_bytes((tmp_path / "images" / "002.png").read_bytes())
    run("tokenizer", shelf, tmp_path)
    assert "1 of its 5 pictures are, byte for byte, among the 16 looked at" in capsys.readouterr().out


def test_leaks_stand_in_the_report(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A photo of 7 clocks\nA photo of 30 clocks\n")
    run("generation", shelf, tmp_path, options=("--prompts", str(prompts)))
    told = capsys.readouterr().out
    assert "1 equal a prompt of prompts.txt, 0 hold one; 1 of its prompts are met" in told
    assert "images/007.png: 'a photo of 7 clocks' ('A photo of 7 clocks')" in told


def test_codes_are_held_against_the_recipe(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generation", shelf, tmp_path)
    codes = f"data.codes={tmp_path / 'codes'}"
    with pytest.raises(UserError, match=r"data\.sources\.0: .*codes"):
        run("generation", shelf, tmp_path, codes)
    extract_codes.main(["--config", str(tmp_path / "recipe.yaml"), codes])
    capsys.readouterr()
    run("generation", shelf, tmp_path, codes)
    told = capsys.readouterr().out
    assert "codes          16 pictures, 16 looked at; 100.0% have a caption" in told
    assert "16 captions looked at" in told and "asked for" not in told
    with pytest.raises(UserError, match="codes: belongs to another VQRAE"):
        run("generation", shelf, tmp_path, codes, f"model.tokenizer.source={shelf / 'other_vqrae'}")
