"""Sources of tars: which picture and which caption are meant, damaged shards, the index and where it lies."""

from __future__ import annotations

import json
import multiprocessing
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from image_sets import add_member, encoded, make_shards, number_of

from common.data import blobs
from common.data.captions import NO_JSON, NO_TEXT, NO_UNICODE, NO_UTF8
from common.data.config import DataConfig, SourceConfig
from common.data.images import open_image
from common.data.open import open_source
from common.data.shards import ShardSource, shard_paths
from common.data.sources import Account
from common.data.stream import ImageStream, training_loader
from common.data.tars import catalogue, store
from common.data.tars.shard_index import NO_PICTURE
from common.errors import FailedRead, UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_tar(path: Path, **members: Any) -> str:
    """Members by name, where `__` stands for a dot: a number is a picture, a dict JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, int):
                content = encoded(content)
            elif not isinstance(content, bytes):
                content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            add_member(tar, name.replace("__", "."), content)
    return str(path)


def opened(path: object, **options: Any) -> ShardSource:
    source = open_source(SourceConfig(kind="shards", path=str(path), **options))
    assert isinstance(source, ShardSource)
    return source


def told(source: ShardSource) -> list[tuple[str, int, str | None]]:
    """(sample, number of the picture, caption) of all."""
    raws = [source.read(index) for index in range(len(source))]
    return [(raw.key.split("/", 1)[1], open_image(raw.data).getpixel((0, 0))[0], raw.caption) for raw in raws]  # type: ignore[index,misc]


# ---- pictures and captions -------------------------------------------------------------------------------


def test_a_tar_that_is_not_sorted(tmp_path: Path) -> None:
    members = {f"{n}__png": n for n in range(4)} | {f"{n}__txt": f"number {n}" for n in (2, 0, 3, 1)}
    source = opened(make_tar(tmp_path / "a.tar", **members))
    assert told(source) == [(str(n), n, f"number {n}") for n in range(4)]
    assert source.account().captions == 4 and not source.account().left_out


def test_several_pictures_need_a_name(tmp_path: Path) -> None:
    """A depth map that comes first is not what is trained on."""
    path = make_tar(
        tmp_path / "a.tar", **{"0__depth__png": 9, "0__png": 1, "1__depth__png": 9, "1__png": 2, "2__png": 3}
    )
    with pytest.raises(UserError, match=r"image_column: 2 samples .*0 has .depth.png, .png\).*\.png \(3\)"):
        opened(path)
    source = opened(path, image_column="png")
    assert [picture for _, picture, _ in told(source)] == [1, 2, 3]
    assert source.account().left_out == {"members .depth.png": 2}
    depths = opened(path, image_column=".Depth.PNG")
    assert [picture for _, picture, _ in told(depths)] == [9, 9] == [9] * len(depths)
    assert depths.account().left_out == {"members .png": 3, "samples without a .depth.png": 1}
    with pytest.raises(UserError, match=r"image_column: no sample has a \.gif; there are \.png \(3\)"):
        opened(path, image_column="gif")


def test_what_the_recipe_names_is_the_caption(tmp_path: Path) -> None:
    record = {"caption": "alt text", "recaption": "told anew", "many": ["first", "second"], "number": 3}
    path = make_tar(
        tmp_path / "a.tar", a__png=1, a__txt=" alt  text\n", a__json=record, a__law__txt="all rights"
    )
    for named, caption in (
        (None, "alt  text"),
        ("txt", "alt  text"),
        ("recaption", "told anew"),
        ("many", "first"),
        ("law.txt", "all rights"),
    ):
        source = opened(path, caption_column=named)
        assert told(source) == [("a", 1, caption)] and source.account().captions == 1
    for named in ("number", "gone"):
        with pytest.raises(
            UserError, match=rf"caption_column: no sample has {named}; .*\.txt \(1\).*recaption \(1\)"
        ):
            opened(path, caption_column=named)


def test_standard_places_and_doubts(tmp_path: Path) -> None:
    places: dict[str, Any] = {
        "txt": "it", "cap": "it", "caption": "it", "caption__txt": "it", "CAP": "it",
        "json": {"caption": "it"}, "info__json": {"prompt": "it", "seed": 3}, "JSON": {"text": ["it"]},
    }  # fmt: skip
    for number, (ending, content) in enumerate(places.items()):
        source = opened(make_tar(tmp_path / f"{number}.tar", **{"a__png": 1, f"a__{ending}": content}))
        assert told(source) == [("a", 1, "it")] and source.account().captions == 1, ending
    path = make_tar(tmp_path / "two.tar", a__png=1, a__txt="one", a__json={"prompt": "other"})
    with pytest.raises(
        UserError, match=r"1 samples have several texts .*\(a has .txt, `prompt` in .json\); name"
    ):
        opened(path)
    assert told(opened(path, caption_column="prompt")) == [("a", 1, "other")]
    assert told(opened(path, unconditional=True)) == [("a", 1, None)]


@pytest.mark.parametrize(
    ("ending", "text", "reason"),
    [
        ("json", b'{"caption": "half an emoji \\ud83d"}', NO_UNICODE),
        ("json", b"{broken", NO_JSON),
        ("json", b"[" * 100_000, NO_JSON),
        ("json", b'{"caption": "nul \\u0000"}', NO_UNICODE),
        ("json", b'{"caption": 7}', NO_TEXT),
        ("txt", b"caf\xe9", NO_UTF8),
        ("txt", b" \n", None),
    ],
)
def test_a_caption_that_is_no_text_costs_nothing_but_itself(
    ending: str, text: bytes, reason: str | None, tmp_path: Path
) -> None:
    members: dict[str, Any] = {"a__png": 1, f"a__{ending}": text, "b__png": 2, "b__txt": b"\xef\xbb\xbfsound"}
    source = opened(make_tar(tmp_path / "a.tar", **members))
    assert told(source) == [("a", 1, None), ("b", 2, "sound")]
    assert source.account() == Account(2, 1, {reason: 1} if reason else {})


def test_every_member_is_accounted_for(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar",
        a__png=1,
        a__cls="3",
        b__png=2,
        b__npy=b"0",
        b__cls="4",
        c__txt="alone",
        README="x",
    )
    account = opened(path).account()
    assert (account.samples, account.captions) == (2, 0)
    assert account.left_out == {
        "members .cls": 2,
        "members .npy": 1,
        NO_PICTURE: 1,
        "members without an ending": 1,
    }


# ---- which shards ----------------------------------------------------------------------------------------


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    first = make_tar(tmp_path / "set[1]" / "a.tar", a__png=1)
    second = make_tar(tmp_path / "part[2].tar", a__png=2)
    third = make_tar(tmp_path / "x{1,2}.tar", a__png=3)
    for pattern, paths in (
        (tmp_path / "set[1]", [first]),
        (second, [second]),
        (third, [third]),
        (tmp_path, sorted([first, second, third])),
        (tmp_path / "set[1]" / "*.tar", [first]),
        (tmp_path / "p[a-z]rt*.tar", [second]),
    ):
        assert shard_paths(str(pattern)) == paths
    assert {raw for raw, _, _ in told(opened(tmp_path))} == {"a"}


def test_shards_of_one_name_in_several_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_tar(tmp_path / folder / "0.tar", x__png=1)
    source = opened(tmp_path)
    assert [source.read(n).key for n in range(2)] == ["a/0.tar/x", "b/0.tar/x"]
    assert [part.name for part in source.parts()] == ["a/0.tar", "b/0.tar"]


def test_parts_say_when_a_shard_changes(tmp_path: Path) -> None:
    config = make_shards(tmp_path, [3, 4])
    before = opened(config.path).parts()
    assert [(part.name, part.start, part.count) for part in before] == [
        ("train-000.tar", 0, 3),
        ("train-001.tar", 3, 4),
    ]
    os.utime(tmp_path / "train-001.tar", ns=(1, 1))
    after = opened(config.path).parts()
    assert after[0] == before[0] and after[1].fingerprint != before[1].fingerprint


# ---- damage ----------------------------------------------------------------------------------------------


def test_damaged_shards_are_told_together_and_left_out_up_to_a_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_shards(tmp_path, [2] * 6)
    (tmp_path / "train-001.tar").write_bytes((tmp_path / "train-000.tar").read_bytes()[:600])
    (tmp_path / "train-004.tar").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"2 of 6 shards .*max_damaged_shards.*train-001.tar: .*train-004.tar: "
    ) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    source = opened(tmp_path, max_damaged_shards=0.4)
    assert [picture for _, picture, _ in told(source)] == [0, 1, 4, 5, 6, 7, 10, 11]
    assert source.account().left_out == {"damaged shards": 2}
    assert "train-001.tar" in caplog.text and "train-004.tar" in caplog.text


def test_a_shard_whose_reads_fail_later_is_replaced_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_shards(tmp_path, [8, 8, 8, 8])
    stream = ImageStream(DataConfig(image_size=6, sources=(config,)), 0)
    (tmp_path / "train-001.tar").write_bytes(b"cut")
    read = os.pread

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "train-002.tar":
            raise OSError(5, "Input/output error")
        return read(descriptor, size, offset)

    monkeypatch.setattr(blobs.os, "pread", failing)
    blobs.forget_open_files()
    batch = stream.batch(list(range(32)))
    assert {number_of(pixels.numpy()) // 8 for pixels in batch["pixels"]} == {0, 3}
    skipped = "\n".join(batch["skipped"])
    assert "train-001.tar: changed since it was indexed" in skipped
    assert "train-002.tar: cannot be read: Input/output error" in skipped and len(batch["skipped"]) >= 16
    with pytest.raises(FailedRead):
        stream.sources[0].read(8)  # type: ignore[attr-defined]


# ---- the index -------------------------------------------------------------------------------------------


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are scanned from now on, in this process."""
    scanned: list[str] = []
    scan = store.scan

    def count(path: str, *more: Any) -> Any:
        scanned.append(Path(path).name)
        return scan(path, *more)

    monkeypatch.setattr(store, "scan", count)
    return scanned


def test_a_shard_is_scanned_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned = counting(monkeypatch)
    config = make_shards(tmp_path, [3, 4])
    for _ in range(2):
        assert len(opened(config.path)) == 7
    assert sorted(scanned) == ["train-000.tar", "train-001.tar"]
    make_tar(tmp_path / "train-001.tar", x__png=1)
    make_tar(tmp_path / "train-002.tar", y__png=2)
    assert len(opened(tmp_path)) == 5
    assert sorted(scanned)[1:] == ["train-001.tar", "train-001.tar", "train-002.tar"]


def test_a_start_reads_the_count_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_shards(tmp_path, [3, 4])
    opened(config.path)

    def refuse(*_: object) -> None:
        raise AssertionError("the index was read")

    with monkeypatch.context() as patch:
        for name in ("scan", "read_index", "read_summary"):
            patch.setattr(store, name, refuse)
        assert len(opened(config.path)) == 7
    (tmp_path / ".vqrae-index" / "counts.json").write_text("{torn")
    scanned = counting(monkeypatch)
    assert len(opened(config.path)) == 7 and not scanned  # from the index files


def test_an_index_is_moved_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path / "here", [3])
    opened(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    scanned = counting(monkeypatch)
    assert len(told(opened(tmp_path / "there"))) == 3 and not scanned


def test_where_the_folder_cannot_be_written_the_cache_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path / "set", [3])
    (tmp_path / "set" / ".vqrae-index").write_text("in the way")
    assert len(told(opened(tmp_path / "set"))) == 3
    assert sorted(path.name for path in cache.rglob("*.*")) == ["counts.json", "train-000.tar.safetensors"]
    scanned = counting(monkeypatch)
    assert len(told(opened(tmp_path / "set"))) == 3 and not scanned
    make_shards(tmp_path / "set", [4])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="VQRAE_CACHE"):
        opened(tmp_path / "set")


def test_many_shards_are_indexed_by_many_and_ranks_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path, [2] * 8)
    paths = shard_paths(str(tmp_path))
    assert len(catalogue.catalogued(paths, workers=2).paths) == 8
    store_of = tmp_path / ".vqrae-index"
    for file in store_of.iterdir():
        file.unlink()
    scanned = counting(monkeypatch)
    monkeypatch.setattr("common.dist.world", lambda: 4)
    monkeypatch.setattr("common.dist.rank", lambda: 3)
    catalogue.catalogued(paths, workers=0)
    assert scanned == [f"train-{n:03d}.tar" for n in (6, 7, 0, 1, 2, 3, 4, 5)]  # by rank, not by process id
    scanned.clear()
    (store_of / "counts.json").unlink()
    monkeypatch.setattr("common.dist.rank", lambda: 0)
    catalogue.catalogued(paths, workers=0)
    assert not scanned


def test_the_last_small_shard_is_split_like_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard, samples in enumerate(([0, 1], [2])):
        members = {f"{n}__{side}__png": n for n in samples for side in ("left", "right")}
        make_tar(tmp_path / f"{shard}.tar", **members)
    make_tar(
        tmp_path / "2.tar",
        a__left__png=5,
        a__left__txt="a sample of its own",
        b__left__png=6,
        b__left__txt="",
    )
    scanned = counting(monkeypatch)
    for _ in range(2):
        source = opened(tmp_path, image_column="left.png")
    assert scanned == ["0.tar", "1.tar", "2.tar", "1.tar", "2.tar"]  # once more, knowing the endings of 0.tar
    assert told(source) == [("0", 0, None), ("1", 1, None), ("2", 2, None)]
    without = {"members .png": 2, "samples without a .left.png": 2}
    assert source.account().left_out == {"members .right.png": 3, **without}


def index_slowly(path: str) -> None:
    write = store.write_index

    def pause(file: Any, *more: Any) -> None:
        write(file, *more)
        if len(list(Path(path, ".vqrae-index").glob("*.safetensors"))) == 2:
            file.flush()
            os.kill(os.getpid(), 9)

    store.write_index = pause
    opened(path)


@pytest.mark.slow
def test_a_killed_index_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [2] * 4)
    process = multiprocessing.get_context("fork").Process(target=index_slowly, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    scanned = counting(monkeypatch)
    assert len(told(opened(tmp_path))) == 8
    assert scanned == ["train-002.tar", "train-003.tar"]


def test_ranks_that_see_different_shards_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(image_size=6, sources=(make_shards(tmp_path, [3, 4]),))
    monkeypatch.setattr("common.dist.gather_objects", lambda mine: [mine, [3]])
    with pytest.raises(UserError, match="7 samples on rank 0 and 3 on rank 1; all must see the same data"):
        training_loader(data, 0)
