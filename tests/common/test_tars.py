"""Tars as programs make them, and the names in them: every member is used, counted, or named by an error."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from image_sets import add_member

from common.data.tars.members import (
    DEVICES,
    HIDDEN,
    LARGE_HOLES,
    LINKS,
    NO_END,
    STRANGE,
    read_contents,
    read_member,
)
from common.data.tars.names import split_names
from common.errors import UserError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def contents_of(path: Path) -> dict[str, bytes]:
    """Name -> content, as our reader finds them."""
    found = read_contents(str(path)).members
    return {member.name: read_member(str(path), *member[1:]) for member in found}


def special(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


# ---- members ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_all_formats(form: str, tmp_path: Path) -> None:
    """Long, foreign, absolute and dotted names, empty files, sizes at the edge of a block, folders."""
    long = "" if form == "ustar" else "deep/" * 40
    files = {
        "./a.png": b"1",
        f"{long}b.JPG": b"2" * 511,
        "größe/c d.png": b"3" * 512,
        "/root.txt": b"4" * 513,
        "x//y.txt": b"",
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=FORMATS[form]) as tar:
        special(tar, "folder", tarfile.DIRTYPE)
        for name, content in files.items():
            add_member(tar, name, content)
    expected = ["a.png", f"{long}b.JPG", "größe/c d.png", "root.txt", "x/y.txt"]
    assert contents_of(tmp_path / "a.tar") == dict(zip(expected, files.values(), strict=True))


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "posix", "ustar", "v7"])
def test_tars_of_gnu_tar(form: str, tmp_path: Path) -> None:
    """With hard and symbolic links, which `tar` makes of files that are one."""
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (files / "a.png").write_bytes(b"picture")
    (files / "a.txt").write_bytes(b"text")
    os.link(files / "a.png", files / "b.png")
    (files / "sub" / "c.png").symlink_to("../b.png")
    (files / "d.png").symlink_to("sub/c.png")
    subprocess.run(["tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", files, "."], check=True)
    pictures = dict.fromkeys(("a.png", "b.png", "sub/c.png", "d.png"), b"picture")
    assert contents_of(tmp_path / "a.tar") == {**pictures, "a.txt": b"text"}


@pytest.mark.parametrize(
    "form", ["gnu", "oldgnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"]
)
def test_sparse_members_are_read_with_their_holes(form: str, tmp_path: Path) -> None:
    holey = bytearray(3 << 20)
    for at in range(0, len(holey), 300_000):  # more pieces than a header holds
        holey[at : at + 5000] = os.urandom(5000)
    with (tmp_path / "a.bmp").open("wb") as file:
        for at in range(0, len(holey), 300_000):
            file.seek(at)
            file.write(holey[at : at + 5000])
        file.truncate(len(holey))
    (tmp_path / "b.png").write_bytes(b"behind")
    call = ["tar", *f"--format={form}".split(), "-Scf", "a.tar", "a.bmp", "b.png"]
    subprocess.run(call, check=True, cwd=tmp_path)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20
    assert contents_of(tmp_path / "a.tar") == {"a.bmp": bytes(holey), "b.png": b"behind"}


def test_holes_of_any_claimed_size_cost_no_memory(tmp_path: Path) -> None:
    os.truncate(os.open(tmp_path / "a.bmp", os.O_CREAT | os.O_RDWR), 1 << 40)
    (tmp_path / "b.png").write_bytes(b"b")
    subprocess.run(["tar", "-Scf", "a.tar", "a.bmp", "b.png"], check=True, cwd=tmp_path)
    contents = read_contents(str(tmp_path / "a.tar"))
    assert [member.name for member in contents.members] == ["b.png"]
    assert contents.left_out == {LARGE_HOLES: (1, "a.bmp")}


def test_what_is_no_file_is_counted_by_kind(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        special(tar, "pipe.png", tarfile.FIFOTYPE)
        special(tar, "disk.png", tarfile.BLKTYPE)
        special(tar, "label", b"V")
        special(tar, "gone.png", tarfile.LNKTYPE, "nowhere.png")
        special(tar, "out.png", tarfile.SYMTYPE, "/etc/x.png")
        special(tar, "round.png", tarfile.SYMTYPE, "square.png")
        special(tar, "square.png", tarfile.SYMTYPE, "round.png")
        add_member(tar, "./._a.png", b"resource fork")
        add_member(tar, "__MACOSX/b.png", b"")
        add_member(tar, "a.png", b"a")
    contents = read_contents(str(tmp_path / "a.tar"))
    assert [member.name for member in contents.members] == ["a.png"]
    assert contents.left_out == {
        DEVICES: (2, "pipe.png"),
        STRANGE: (1, "label"),
        LINKS: (4, "gone.png"),
        HIDDEN: (2, "._a.png"),
    }


def plain_tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            add_member(tar, name, name.encode())
    return buffer.getvalue()


def test_tars_behind_one_another_are_one(tmp_path: Path) -> None:
    """`cat a.tar b.tar`: tarfile stops at the end mark of the first."""
    (tmp_path / "a.tar").write_bytes(plain_tar("a.png", "b.png") + bytes(5120) + plain_tar("c.png"))
    assert list(contents_of(tmp_path / "a.tar")) == ["a.png", "b.png", "c.png"]


def test_a_tar_without_its_end_mark_is_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(plain_tar("a.png", "b.png")[:2048])
    contents = read_contents(str(tmp_path / "a.tar"))
    assert len(contents.members) == 2 and contents.left_out == {NO_END: (1, str(tmp_path / "a.tar"))}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda whole: whole[:1024] + b"\xff" * 512 + whole[1536:], "no header at byte 1024"),
        (lambda whole: whole[:1030], "ends within a header"),
        (lambda whole: whole[:1537], "b.png ends past the end"),
        (lambda whole: whole + b"tail" * 128, "no header at byte 10240"),
        (lambda whole: b"", "no plain tar, or a damaged one"),
        (lambda whole: b"<html>" * 200, "no plain tar, or a damaged one"),
        (lambda whole: whole[:124] + b"\xff" * 12 + whole[136:], "damaged"),
        (lambda whole: b"\x28\xb5\x2f\xfd" + whole, "compressed by zstd.*zstd -d"),
        (lambda whole: plain_tar("a.png", "b.png", "./a.png"), "a.png is in it twice"),
    ],
)
def test_damaged_tars_are_refused_by_name(damage: object, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(damage(plain_tar("a.png", "b.png")))  # type: ignore[operator]
    with pytest.raises(UserError, match=rf"a\.tar: .*{problem}") as caught:
        read_contents(str(tmp_path / "a.tar"))
    assert "\n" not in str(caught.value)


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        ("0.jpg 0.txt 1.jpg 1.txt", {"0": "jpg txt", "1": "jpg txt"}),
        ("0.jpg 1.jpg 1.TXT 0.txt", {"0": "jpg txt", "1": "jpg txt"}),
        ("d.v1.jpg d.v1.txt d.v2.jpg d.v2.txt", {"d.v1": "jpg txt", "d.v2": "jpg txt"}),
        ("d.v1.jpg d.v2.jpg d.v3.jpg", {"d.v1": "jpg", "d.v2": "jpg", "d.v3": "jpg"}),
        ("d.v1.jpg d.v2.jpg s.v1.jpg s.v2.jpg", {"d.v1": "jpg", "d.v2": "jpg", "s.v1": "jpg", "s.v2": "jpg"}),
        ("d.jpg d.v2.jpg", {"d": "jpg", "d.v2": "jpg"}),
        ("d.red.jpg d.green.jpg d.blue.jpg", {"d.red": "jpg", "d.green": "jpg", "d.blue": "jpg"}),
        ("d.red.jpg d.red.txt s.red.jpg s.red.txt", {"d.red": "jpg txt", "s.red": "jpg txt"}),
        ("20.1.5.jpg 20.1.6.jpg 21.1.5.jpg", {"20.1.5": "jpg", "20.1.6": "jpg", "21.1.5": "jpg"}),
        ("0.depth.png 0.jpg 0.mask.png 0.txt", {"0": "depth.png jpg mask.png txt"}),
        ("0.jpg 0.txt 0.law.txt 1.jpg 1.cap.txt 1.ocr.txt", {"0": "jpg txt law.txt", "1": "jpg cap.txt ocr.txt"}),
        ("0.jpg 0.info.json", {"0": "jpg info.json"}),
        ("0.left.png 0.right.png 1.left.png 1.right.png", {"0": "left.png right.png", "1": "left.png right.png"}),
        ("0.photo.jpg 0.caption.txt", {"0": "photo.jpg caption.txt"}),
        ("0.json 0.0.jpg 0.1.jpg", {"0": "json 0.jpg 1.jpg"}),
        ("d.v1.jpg d.v1.depth.png d.v2.jpg d.v2.depth.png", {"d.v1": "jpg depth.png", "d.v2": "jpg depth.png"}),
        ("v1.0/a.jpg v1.0/a.txt v1.0/b", {"v1.0/a": "jpg txt", "v1.0/b": ""}),
        ("a/0.jpg b/0.jpg", {"a/0": "jpg", "b/0": "jpg"}),
    ],
)  # fmt: skip
def test_keys_and_endings(names: str, samples: dict[str, str]) -> None:
    found: dict[str, list[str]] = {}
    for key, ending in split_names(names.split()).names:
        found.setdefault(key, []).append(ending)
    assert {key: " ".join(endings) for key, endings in found.items()} == samples


def test_a_small_tar_learns_the_endings_of_its_set() -> None:
    alone = split_names(["9.left.png", "9.right.png"])
    assert alone.names == [("9.left", "png"), ("9.right", "png")] and alone.possible == {
        "left.png",
        "right.png",
    }
    told = split_names(["9.left.png", "9.right.png"], known={"left.png", "right.png"})
    assert told.names == [("9", "left.png"), ("9", "right.png")]
