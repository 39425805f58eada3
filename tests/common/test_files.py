"""Files and folders are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
import torch
from full_disk import full_disk
from PIL import Image
from safetensors.torch import save_file

from common import files
from common.errors import UserError
from common.files import (
    cache_file,
    obeying_umask,
    partial_of,
    whole_cache,
    whole_file,
    whole_folder,
    write_json,
    write_png,
    write_text,
    writing,
)
from generation.codes.facts import CodeFacts
from generation.codes.shard import ShardOrigin, write_captions, write_shard

ROOT = Path(__file__).parents[2]


def refused(write: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        write()
    assert "\n" not in str(error.value) and "None" not in str(error.value)
    return str(error.value)


def test_a_writer_that_fails_leaves_the_old_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_text(path, "old")

    def torn() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            assert path.read_text() == "old" and partial.parent == path.parent
            raise KeyError("a bug of ours")

    with pytest.raises(KeyError):
        torn()
    assert [item.name for item in path.parent.iterdir()] == ["file"] and path.read_text() == "old"


@pytest.mark.parametrize(
    ("library", "write"),
    [
        ("python", lambda path: path.write_bytes(bytes(100_000))),
        ("pillow", lambda path: Image.effect_noise((300, 300), 90).save(path, format="PNG")),
        ("torch", lambda path: torch.save({"a": torch.zeros(100_000)}, path)),
        ("safetensors", lambda path: save_file({"a": torch.zeros(100_000)}, path)),
    ],
)
def test_a_full_disk(library: str, write: Callable[[Path], object], tmp_path: Path) -> None:
    """Each library says it in its own way; the user reads one line, and what was there stays."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    write_text(file, "old")
    with whole_folder(folder) as partial:
        write_text(partial / "inside", "old")

    def into_file() -> None:
        with whole_file(file) as partial, full_disk():
            write(partial)

    def into_folder() -> None:
        with whole_folder(folder) as partial, full_disk():
            write_text(partial / "inside", "new")
            write(partial / "large")

    why = "the disk may be full" if library == "torch" else "File too large"
    for path, attempt in ((file, into_file), (folder, into_folder)):
        assert refused(attempt).startswith(f"{path}: cannot be written: ")
        assert why in refused(attempt)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]
    assert file.read_text() == "old" and [item.name for item in folder.iterdir()] == ["inside"]
    assert (folder / "inside").read_text() == "old"


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {f"word{number}": number for number in range(5000)}
    table = Tokenizer(models.WordLevel(vocabulary, unk_token="word0"))

    def save() -> None:
        with whole_folder(tmp_path / "model") as partial, full_disk():
            table.save(str(partial / "tokenizer.json"))

    assert "model: cannot be written: File too large" in refused(save)
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_reason_of_the_system(tmp_path: Path) -> None:
    def write(error: OSError) -> Callable[[], None]:
        def fail() -> None:
            with whole_file(tmp_path / "file"):
                raise error

        return fail

    assert refused(write(OSError("encoder error -2"))).endswith("file: cannot be written: encoder error -2")
    assert refused(write(OSError())).endswith("file: cannot be written: OSError")


def test_what_is_no_failure_to_write_stays_what_it_is(tmp_path: Path) -> None:
    for error in (RuntimeError("a shape does not fit"), ValueError("codes"), UserError("x: (os error 2)")):
        with pytest.raises(type(error)) as raised, whole_folder(tmp_path / "folder"):
            raise error
        assert raised.value is error and not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    (tmp_path / "folder").mkdir()
    below = tmp_path / "file" / "below" / "name"
    for attempt in (
        lambda: write_text(below, ""),
        lambda: write_json(below, {}),
        lambda: write_png(below, Image.new("RGB", (2, 2))),
        lambda: whole_folder(below).__enter__(),
    ):
        assert refused(attempt).startswith(f"{below}: cannot be written: ")
    assert "Is a directory" in refused(lambda: write_text(tmp_path / "folder", ""))

    def in_place_of_a_file() -> None:
        with whole_folder(tmp_path / "file"):
            pass

    assert "Not a directory" in refused(in_place_of_a_file)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]

    def append() -> None:
        with writing(f"{tmp_path}: output"):
            (tmp_path / "folder").open("a")

    assert refused(append) == f"{tmp_path}: output: cannot be written: Is a directory"


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with whole_cache(tmp_path / "cached"):
            pass
        with whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    modes = {item.name: item.stat().st_mode & 0o777 for item in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "cached": 0o640, "folder": 0o750}


WRITER = """
import sys
from pathlib import Path
from common.files import write_text
for _ in range(100):
    write_text(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""


def test_two_processes_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "c" * 100_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], cwd=ROOT) for letter in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
        seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0] and seen >= {"a", "b"}
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_folder_keeps_the_old_one_until_the_new_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    with whole_folder(path) as partial:
        write_text(partial / "old", "")
    partial_of(path).mkdir()
    write_text(partial_of(path) / "left by a kill", "")
    flushed, flush = [], files._flush

    def look(item: Path) -> None:
        """The old folder is there while any part of the new one is forced to disk."""
        assert (path / ("new" if item == tmp_path else "old")).is_file()
        flushed.append(item)
        flush(item)

    with whole_folder(path) as partial:
        (partial / "below").mkdir()
        (partial / "new").write_text("")
        (partial / "below" / "new").write_text("")
        monkeypatch.setattr(files, "_flush", look)
    assert set(flushed) == {partial, *(partial / name for name in ("new", "below", "below/new")), tmp_path}
    assert sorted(item.name for item in path.rglob("*")) == ["below", "new", "new"]
    assert [item.name for item in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UserError, match="is there already"), whole_folder(path, replace=False):
        raise AssertionError("not reached")


def test_every_file_is_on_disk_before_it_bears_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        calls.append(("fsync", os.fstat(handle).st_ino))
        sync(handle)

    def renamed(self: Path, target: Path) -> Any:
        calls.append(("rename", self.stat().st_ino))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "file", "text")
    inode = (tmp_path / "file").stat().st_ino
    assert calls == [("fsync", inode), ("rename", inode)]


def test_forms(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", {"a": "é"}, ensure_ascii=False)
    assert (tmp_path / "record.json").read_bytes() == '{\n  "a": "é"\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "record.json", float("nan"), allow_nan=False)
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": "é"}
    write_png(tmp_path / "no suffix", Image.new("RGB", (3, 2), "red"))
    with Image.open(tmp_path / "no suffix") as picture:
        assert picture.format == "PNG" and picture.size == (3, 2)
    longest = tmp_path / ("é" * 125 + ".png")
    write_text(longest, "as long as a name may be")
    assert longest.is_file()


def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "mine"))
    path = cache_file("kind", "one", 2, suffix=".txt")
    assert path.parent == tmp_path / "mine" / "kind" and path.suffix == ".txt"
    assert path != cache_file("kind", "one", 3, suffix=".txt")
    with whole_cache(path) as file:
        file.write(b"kept")
    assert path.read_bytes() == b"kept"
    monkeypatch.delenv("VQRAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_text(tmp_path / "file", "")
    assert "set VQRAE_CACHE" in refused(lambda: whole_cache(cache_file("kind", suffix=".txt")).__enter__())


def test_it_is_light() -> None:
    code = "import common.files, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "PIL", "transformers"} & {
        name.split(".")[0] for name in done.stdout.split()
    }


# ---- modes -----------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_files_have_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    def private(path: Path) -> None:
        path.touch(0o600)
        path.chmod(0o600)

    usual = {0o666 & ~umask}
    with whole_file(tmp_path / "files" / "a") as partial:
        private(partial)
    write_json(tmp_path / "files" / "b.json", {})
    assert modes(tmp_path / "files") == usual
    with whole_folder(tmp_path / "folder") as partial:
        (partial / "within").mkdir()
        private(partial / "within" / "c")
    assert modes(tmp_path / "folder") == usual


def test_files_of_others_keep_their_modes(umask: int, tmp_path: Path) -> None:
    secret, replaced = tmp_path / "secret", tmp_path / "replaced"
    for path in (secret, replaced):
        path.write_text("")
        path.chmod(0o400)
    with obeying_umask(tmp_path):
        replaced.unlink()
        (tmp_path / "new").touch(0o600)
        replaced.touch(0o600)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o400
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "replaced")} == {
        0o666 & ~umask
    }


@pytest.mark.parametrize("what", ["vqrae", "encoder", "generator", "codes"])
def test_exports_can_be_read_by_whom_the_umask_lets(what: str, umask: int, tmp_path: Path) -> None:
    """safetensors makes its files for their owner alone."""
    out = tmp_path / "out"
    if what == "generator":
        tiny_generator.write_generator(out)
    elif what == "codes":
        facts = CodeFacts(
            vqrae_sha256="", codebook_size=4, grid=(2, 2), image_size=8, crop="center", precision="fp32"
        )
        origin = ShardOrigin("", "", 0, 1, "")
        write_shard(out / "0.safetensors", facts, origin, [np.zeros((2, 2), np.int64)], ["a"], [])
        write_captions(out / "1.safetensors", "0", ["x"])
    else:
        vqrae = tiny_generator.write_vqrae(tmp_path / "first")
        (vqrae if what == "vqrae" else vqrae.encoder).save_pretrained(out)
    assert list(out.rglob("*.safetensors")) and modes(out) == {0o666 & ~umask}


def test_a_path_that_is_no_text_can_be_written_down(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "caf\udce9 \u7ea2")
    assert (tmp_path / "page.html").read_bytes() == b"caf\\udce9 \xe7\xba\xa2"
