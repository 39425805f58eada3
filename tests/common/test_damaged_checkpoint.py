"""A checkpoint that is not as it was written: told, with file and fault, and the one before it is taken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from common.training.checkpoint import Checkpoints
from common.training.stored import share
from common.training.stored.manifest import MANIFEST, RECORD, NotWhole
from common.training.stored.reading import Checkpoint, newest_whole

BOMBED: list[str] = []


class Bomb:
    """Executes what it likes as soon as somebody unpickles it."""

    def __reduce__(self) -> Any:
        return BOMBED.append, ("bombed",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`RUN/checkpoints` with those of steps 2 and 4, two files of tensors each."""
    monkeypatch.setattr(share, "FILE_BYTES", 200)
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (2, 4):
        tensors = {name: torch.full((30,), float(step)) for name in ("a", "b")}
        checkpoints.save(step, tensors.items(), {"step": step})
    return tmp_path


def resumed(folder: Path) -> tuple[int | None, list[str]]:
    """The step that a run goes on from, and what it says."""
    said: list[str] = []
    found = newest_whole(folder, said.append)
    assert all("\n" not in line for line in said)
    if found is not None:
        assert found.read("a").tolist() == [float(found.step)] * 30 and found.record == {"step": found.step}
    return (None if found is None else found.step), said


def flip(position: float) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 4
        path.write_bytes(content)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"a bit flipped at {position}": flip(position) for position in (0.0, 0.11, 0.37, 0.5, 0.83)},
    "cut a little": lambda path: os.truncate(path, path.stat().st_size - 2),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b"\n{}"),
    "empty": lambda path: path.write_bytes(b""),
    "absent": lambda path: path.unlink(),
    "zeros of the same size": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "torch's pickle": lambda path: torch.save({"a": Bomb()}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "that of another checkpoint": lambda path: shutil.copy(
        path.parent.parent / "step_00000002" / path.name, path
    ),
}
FILES = ("weights_rank00000_00000.safetensors", "weights_rank00000_00001.safetensors", RECORD, MANIFEST)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file(damage: str, folder: Path) -> None:
    before = shutil.copytree(folder, folder.with_name(folder.name + "_before"))
    for name in FILES:
        file = folder / "step_00000004" / name
        DAMAGES[damage](file)
        step, said = resumed(folder)
        assert step == 2, f"{name}, {damage}"
        assert len(said) == 2 and str(file) in said[0] and "step_00000002: whole; going on" in said[1], said
        DAMAGES["empty"](folder / "step_00000002" / RECORD)
        with pytest.raises(UserError, match="no whole checkpoint is left") as error:
            resumed(folder)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
    assert resumed(folder) == (4, []) and BOMBED == []


@pytest.mark.parametrize("name", ["state_rank00000.pt", "zero_to_fp32.py", ".hidden", "more.safetensors"])
def test_a_file_that_nobody_listed(name: str, folder: Path) -> None:
    (folder / "step_00000004" / name).write_bytes(pickle.dumps(Bomb()))
    step, said = resumed(folder)
    assert step == 2 and f"step_00000004/{name}: manifest.json does not list it" in said[0] and BOMBED == []


def restate(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest that somebody wrote with care: its own hash is right."""
    path = folder / MANIFEST
    stated = json.loads(path.read_text())
    del stated["sha256"]
    change(stated)
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**stated, "sha256": digest}))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "nul\0", MANIFEST]
)
def test_a_manifest_that_leads_outside(name: str, folder: Path) -> None:
    (folder / "outside").write_text("x")
    stored = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest(), "keys": ["c"]}
    restate(folder / "step_00000004", lambda stated: stated["files"].update({name: stored}))
    step, said = resumed(folder)
    assert step == 2 and f"lists {name!r}, which is no file of this folder" in said[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda stated: stated.update(step=2), "is the manifest of step 2"),
        (lambda stated: stated["files"].pop(RECORD), "lists no record.json"),
        (lambda stated: stated.update(files=[]), "cannot be read"),
        (lambda stated: stated.update(files={"a": 1}), "cannot be read"),
        (lambda stated: stated.pop("format"), "cannot be read"),
        (lambda stated: stated["files"][RECORD].update(bytes="many"), "expected many"),
    ],
)
def test_a_manifest_that_is_none(change: Callable[[Any], Any], named: str, folder: Path) -> None:
    restate(folder / "step_00000004", change)
    step, said = resumed(folder)
    assert step == 2 and named in said[0]


def test_deep_json_is_no_traceback(folder: Path) -> None:
    (folder / "step_00000004" / MANIFEST).write_text("[" * 200_000)
    assert resumed(folder)[0] == 2


def test_a_later_format_is_refused_and_not_passed_over(folder: Path) -> None:
    restate(folder / "step_00000004", lambda stated: stated.update(format=2))
    with pytest.raises(UserError, match="format 2, which this version does not know"):
        resumed(folder)


@pytest.mark.parametrize(
    ("pointer", "step", "named"),
    [
        (b"step_00000002\n", 2, None),  # by hand, to go back
        (b"step_00000002", 2, None),
        (b"", 4, "names '', which is no checkpoint"),
        (b"step_0000", 4, "names 'step_0000', which is no checkpoint"),
        (b"../elsewhere/step_00000004", 4, "which is no checkpoint"),
        (b"/etc", 4, "which is no checkpoint"),
        (b"step_00000004/../../elsewhere", 4, "which is no checkpoint"),
        (b"step_4", 4, "which is no checkpoint"),
        (b"\x80\x04\x95", 4, "cannot be read"),
        (b"step_00000009", 4, "names step_00000009, which is not there"),
        (b"step_00000003", 2, "names step_00000003, which is not there"),
        (None, 4, "latest: absent"),
    ],
)
def test_what_latest_may_say(pointer: bytes | None, step: int, named: str | None, folder: Path) -> None:
    elsewhere = shutil.copytree(folder / "step_00000004", folder / "elsewhere" / "step_00000004")
    if pointer is None:
        (folder / "latest").unlink()
    else:
        (folder / "latest").write_bytes(pointer)
    found, said = resumed(folder)
    assert found == step and elsewhere.is_dir()
    assert said == [] if named is None else named in said[0] and len(said) == 2


def test_never_a_silent_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`latest` alone is left; or it names the first, which is gone: one line, exit 2."""
    for path in folder.glob("step_*"):
        shutil.rmtree(path)
    with pytest.raises(SystemExit) as ended:
        run_cli(lambda: print(Checkpoints(folder, 1).newest()))
    assert ended.value.code == EXIT_BAD_INPUT
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("warning: ") and told[-1].startswith("error: ") and len(told) == 2
    assert "no whole checkpoint is left" in told[1] and "names step_00000004, which is not there" in told[1]


def test_damaged_ones_do_not_count_as_kept(folder: Path) -> None:
    """After the fall back to 2, 4 is damaged: of the newest two whole ones none is lost to it."""
    DAMAGES["cut in half"](folder / "step_00000004" / FILES[0])
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.newest().step == 2  # type: ignore[union-attr]
    for step, stay in ((3, [2, 3, 4]), (5, [3, 5])):
        checkpoints.save(step, [("a", torch.ones(1))], {})
        assert sorted(int(path.name[5:]) for path in folder.glob("step_*")) == stay
    assert not list(folder.glob(".*"))


def test_one_checkpoint_alone(folder: Path) -> None:
    checkpoint = Checkpoint(folder / "step_00000004")
    checkpoint.verify()
    DAMAGES["cut a little"](checkpoint.path / FILES[1])
    with pytest.raises(NotWhole, match=FILES[1]):
        checkpoint.verify()


def test_nothing_is_written_by_looking(folder: Path) -> None:
    (folder / ".step_00000006.partial").mkdir()
    before = sorted(folder.rglob("*"))
    assert newest_whole(folder).step == 4 and sorted(folder.rglob("*")) == before  # type: ignore[union-attr]
    assert "pickle" not in sys.modules or BOMBED == []


def test_checkpoints_of_an_earlier_version(folder: Path) -> None:
    old = folder / "step_00000006" / "generator"
    old.mkdir(parents=True)
    torch.save({"a": Bomb()}, old / "mp_rank_00_model_states.pt")
    torch.save({}, old.parent / "state_rank00000.pt")
    (folder / "latest").write_text("step_00000006\n")
    with pytest.raises(
        UserError,
        match=r"step_00000006: written by an earlier version, as pickle.*python -m scripts\.convert_checkpoint",
    ):
        resumed(folder)
    assert BOMBED == []
