"""What a command would write over: its own, yes; a user's file, only where `--overwrite` says so."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from PIL import Image

from common.errors import UserError
from common.files import write_png
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.outputs import MARK, add_overwrite, check_pictures, claim_folder
from common.training.run import LEFT, open_run
from evals import cluster_figure, command
from evals.detectors import mmdet_keys
from evals.dpg import run as dpg
from evals.geneval import run as geneval
from evals.lmms import run as lmms
from evals.reconstruction import run as reconstruction
from evals.vlmeval import run as vlmeval
from vqrae import cli

PHOTO = Image.new("RGB", (4, 4), "red")
THEIRS = "is there already, and VQRAE did not write it"


def test_pictures_of_ours_are_replaced_and_others_are_not(tmp_path: Path) -> None:
    ours, theirs, absent = tmp_path / "ours.png", tmp_path / "theirs.png", tmp_path / "absent.png"
    write_png(ours, PHOTO)
    PHOTO.save(theirs)
    check_pictures([ours, absent], overwrite=False)
    check_pictures([ours, theirs], overwrite=True)
    with pytest.raises(UserError, match=f"theirs.png: {THEIRS}"):
        check_pictures([ours, theirs], overwrite=False)
    theirs.write_text("no picture")
    with pytest.raises(UserError, match=THEIRS):
        check_pictures([theirs], overwrite=False)


def test_what_is_read_is_not_written_over_though_it_is_ours(tmp_path: Path) -> None:
    source, link = tmp_path / "a.png", tmp_path / "b.png"
    write_png(source, PHOTO)
    os.link(source, link)  # another name of the same file
    with pytest.raises(UserError, match=r"b\.png: is what is read"):
        check_pictures([link], overwrite=False, sources=[source])


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim_folder(tmp_path, ["a.json"])
    (tmp_path / "a.json").write_text("1")
    claim_folder(tmp_path, ["a.json"])  # ours by now
    (tmp_path / MARK).unlink()
    with pytest.raises(UserError, match=rf"a\.json: {THEIRS}"):
        claim_folder(tmp_path, ["b.json", "a.json"])
    claim_folder(tmp_path, ["b.json"])  # nothing of that name is there


def test_results_of_versions_without_marks_are_known(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(
        json.dumps({"benchmark": "dpg_bench", "protocol": "a", "scores": {}})
    )
    (tmp_path / "verdicts.jsonl").write_text("{}\n")
    claim_folder(tmp_path, ["results.json", "verdicts.jsonl"])


@pytest.mark.parametrize(
    ("parser", "written"),
    [
        (reconstruction.build_parser(), "per_image.jsonl"),
        (cluster_figure.build_parser(), "clusters.png"),
        (geneval.parser(), "page.html"),
        (dpg.parser(), "verdicts.jsonl"),
    ],
)
def test_evaluations_state_what_they_write(parser: argparse.ArgumentParser, written: str) -> None:
    assert {"results.json", written} <= set(parser.get_default("writes"))


@pytest.mark.parametrize(
    "main", [reconstruction.main, cluster_figure.main, geneval.main, dpg.main, lmms.main, vlmeval.main]
)
def test_evaluations_claim_their_folder_before_they_load_anything(
    main: Callable[[list[str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, whatever is installed here: what is missing is not looked for, and nothing is loaded."""
    monkeypatch.setattr("evals.preflight.require", lambda *_: None)
    monkeypatch.setattr(vlmeval, "find_kit", lambda: tmp_path)
    for module in (geneval, dpg):
        monkeypatch.setattr(module, "_preflight", lambda *_: None)
    monkeypatch.setattr(command, "claim_folder", _claimed)
    words = [str(tmp_path / "model"), "--output", str(tmp_path)]
    if main in (reconstruction.main, cluster_figure.main):
        words += ["--images", str(tmp_path)]
    with pytest.raises(_Claimed):
        main(words)


class _Claimed(Exception):
    pass


def _claimed(*_: object) -> None:
    raise _Claimed


def test_reconstruct_leaves_a_users_photos_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.jpg"):
        PHOTO.save(photos / name)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    model = tmp_path / "model"
    VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 32, 16, 4).save_pretrained(model)
    for words in (
        [photos, photos],
        [photos / "a.png", photos / "a.png"],
        [photos / "b.jpg", photos / "a.png"],
    ):
        with pytest.raises(UserError, match=r"a\.png: is "):
            cli.dispatch(["reconstruct", str(model), *map(str, words)])
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    for _ in range(2):  # the second call writes over what the first one wrote
        cli.dispatch(["reconstruct", str(model), str(photos), str(tmp_path / "out")])
    cli.dispatch(["reconstruct", str(model), "--overwrite", str(photos), str(photos)])
    assert (photos / "a.png").read_bytes() != before[photos / "a.png"]
    assert (photos / "b.png").is_file() and (photos / "b.jpg").read_bytes() == before[photos / "b.jpg"]


@pytest.mark.parametrize("name", LEFT)
def test_a_run_does_not_take_a_folder_with_files_of_others(name: str, tmp_path: Path) -> None:
    """`model` may be the pretrained one, which the run's own would replace; `config.yaml` the recipe itself."""
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: is there already, and no run of VQRAE"):
        open_run(str(tmp_path), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).rename(tmp_path / "notes")
    open_run(str(tmp_path), resume=True)
    (tmp_path / "notes").rename(tmp_path / name)
    open_run(str(tmp_path), resume=True)  # by now it is the run's


def test_a_converted_detector_is_not_written_over_anything(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out: is there already"):
        mmdet_keys.main([str(tmp_path / "absent.pth"), str(tmp_path / "out")])


def test_the_option_is_off_unless_it_is_said() -> None:
    parser = argparse.ArgumentParser()
    add_overwrite(parser)
    assert not parser.parse_args([]).overwrite and parser.parse_args(["--overwrite"]).overwrite
