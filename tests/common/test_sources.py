"""The three kinds of sources: what they find, what they refuse, and that their order is a pure function."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from image_sets import add_member, encoded, make_dataset, make_folder, make_parquet, make_shards

from common.config import ConfigError, validate
from common.data.blobs import expand_braces
from common.data.config import DataConfig, SourceConfig
from common.data.images import open_image
from common.data.open import open_source
from common.data.sources import IndexedSource, RawImage, Source
from common.data.strings import StringTable
from common.errors import UserError

COUNTS = [7, 0, 12, 5, 13]  # images per shard or file; neither of one size nor multiples of a block
TOTAL = sum(COUNTS)
LANES = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return tmp_path / "cache"


def config_of(kind: str, root: Path) -> SourceConfig:
    match kind:
        case "folder":
            return make_folder(root, TOTAL)
        case "shards":
            return make_shards(root, COUNTS, window=2)
        case "hub":
            return make_parquet(root, [count for count in COUNTS if count])
        case "stream of files":
            return make_parquet(root, [count for count in COUNTS if count], streaming=True, stream_block=4)
        case "stream of row groups":  # fewer files than lanes
            return make_parquet(root, [TOTAL], row_group=5, streaming=True, stream_block=4)
    tars = make_shards(root, [count for count in COUNTS if count], mixed=False)
    return SourceConfig(
        kind="hub", path=str(Path(tars.path).parent), image_column="png", streaming=True, stream_block=4
    )


KINDS = ["folder", "shards", "hub", "stream of files", "stream of row groups", "stream of tars"]


def number(raw: RawImage) -> int:
    return int(open_image(raw.data).getpixel((0, 0))[0])  # type: ignore[index]


def drawn(source: Source, positions: range | list[int], seed: int = 0) -> list[int]:
    return [number(source.sample(position, seed)) for position in positions]


# ---- order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "shards", "hub"])
def test_each_epoch_holds_every_image_once_and_differs(kind: str, tmp_path: Path) -> None:
    source = open_source(config_of(kind, tmp_path / "set"))
    assert isinstance(source, IndexedSource) and len(source) == TOTAL
    epochs = [drawn(source, range(epoch * TOTAL, (epoch + 1) * TOTAL)) for epoch in range(3)]
    epochs.append(drawn(source, range(TOTAL), seed=1))
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert sorted(number(source.read(index)) for index in range(TOTAL)) == list(range(TOTAL))


@pytest.mark.parametrize("kind", ["stream of files", "stream of row groups", "stream of tars"])
def test_each_lane_of_a_stream_goes_round_its_own_images(kind: str, tmp_path: Path) -> None:
    source = open_source(config_of(kind, tmp_path / "set"), LANES)
    lanes = [drawn(source, range(lane, 400, LANES)) for lane in range(LANES)]
    seen: set[int] = set()
    for lane in lanes:
        mine = len(set(lane))
        rounds = [lane[start : start + mine] for start in range(0, len(lane) - mine + 1, mine)]
        assert len(rounds) >= 3
        assert all(sorted(each) == sorted(set(lane)) for each in rounds)
        assert len({tuple(each) for each in rounds}) > 1
        assert not seen & set(lane)
        seen |= set(lane)
    assert seen == set(range(TOTAL))
    assert drawn(source, range(60)) != drawn(source, range(60), seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_position_says_it_all(kind: str, tmp_path: Path, cache: Path) -> None:
    """Any order of asking, a new process, a lost cache: the sample at a position is the same."""
    config = config_of(kind, tmp_path / "set")
    expected = drawn(open_source(config, LANES), range(150))
    jumps = [position * 67 % 150 for position in range(150)]
    again = open_source(config, LANES)
    assert dict(zip(jumps, drawn(again, jumps), strict=True)) == dict(enumerate(expected))
    assert drawn(open_source(config, LANES), range(97, 150)) == expected[97:]
    for file in (*cache.rglob("*.*"), *tmp_path.rglob(".vqrae-index/*")):
        file.unlink()
    assert drawn(open_source(config, LANES), range(97, 150)) == expected[97:]


@pytest.mark.parametrize("kind", KINDS)
def test_substitutes_are_fixed_too_and_come_from_the_same_source(kind: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path / "set")
    tries = [
        [number(open_source(config, LANES).sample(5, 0, attempt)) for attempt in range(6)] for _ in range(2)
    ]
    assert tries[0] == tries[1]
    assert len(set(tries[0])) > 1


@pytest.mark.parametrize("kind", ["folder", "shards", "hub", "stream of files"])
def test_captions_belong_to_their_images(kind: str, tmp_path: Path) -> None:
    source = open_source(config_of(kind, tmp_path / "set"), LANES)
    samples = [source.sample(position, 0) for position in range(2 * TOTAL)]
    captioned = [raw for raw in samples if kind != "folder" or number(raw) % 2 == 0]
    assert captioned and all(raw.caption == f"number {number(raw)}" for raw in captioned)
    assert all(raw.caption is None for raw in samples if raw not in captioned)
    assert len({raw.key for raw in samples}) == TOTAL


def test_shards_are_read_window_by_window(tmp_path: Path) -> None:
    source = open_source(make_shards(tmp_path, [10] * 6, window=2))
    order = drawn(source, range(60))
    windows = [{image // 10 for image in order[start : start + 20]} for start in (0, 20, 40)]
    assert all(len(window) == 2 for window in windows)
    assert windows[0] | windows[1] | windows[2] == set(range(6))


def test_a_stream_is_read_forward_and_resumes_within_its_shard(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed lane opens the shard it stopped in, and none before, though nobody has read a row: footers tell."""
    from common.data import hub_stream

    opened: list[int] = []
    read = hub_stream._ShardReader.read

    def counting(self: hub_stream._ShardReader, cursor: hub_stream._Cursor, shard: int, start: int) -> list:  # type: ignore[type-arg]
        before = (cursor.shard, cursor.row)
        if before[0] != shard or before[1] > start:
            opened.append(shard)
        return read(self, cursor, shard, start)

    monkeypatch.setattr(hub_stream._ShardReader, "read", counting)
    config = make_parquet(tmp_path / "set", [9, 9, 9, 9], streaming=True, stream_block=4)
    source = open_source(config, 1)
    drawn(source, range(36))
    assert sorted(opened) == [0, 1, 2, 3]  # each once
    last = opened[-1]
    opened.clear()
    shutil.rmtree(cache)
    drawn(open_source(config, 1), range(30, 36))
    assert opened == [last]


def test_a_stream_whose_shards_changed_is_refused(tmp_path: Path, cache: Path) -> None:
    tars = make_shards(tmp_path / "set", [6], mixed=False)
    config = SourceConfig(
        kind="hub", path=str(Path(tars.path).parent), image_column="png", streaming=True, stream_block=4
    )
    drawn(open_source(config), range(12))
    (length,) = cache.rglob("*.txt")
    assert length.read_text() == "6"
    length.write_text("9")
    with pytest.raises(UserError, match="shard 0 has 6 rows and had 9"):
        drawn(open_source(config), range(12))


# ---- what is found ---------------------------------------------------------------------------------------


def test_folders_are_searched_in_a_fixed_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/c.webp", ".hidden.png", ".cache/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(0))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    source = open_source(SourceConfig(kind="folder", path=str(tmp_path)))
    assert isinstance(source, IndexedSource)
    assert [source.read(index).key for index in range(len(source))] == ["a/c.webp", "a/z.jpeg", "b.PNG"]


def test_captions_beside_the_folder_and_given_by_path(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(encoded(1))
    (tmp_path / "captions.jsonl").write_text('{"image": "images/x.png", "caption": "beside"}\n')
    (tmp_path / "other.jsonl").write_text('\n{"file": "./images/../images/x.png", "caption": "given"}\n')
    for given, caption in ((None, "beside"), (str(tmp_path / "other.jsonl"), "given")):
        source = open_source(SourceConfig(kind="folder", path=str(tmp_path / "images"), captions=given))
        assert source.sample(0, 0).caption == caption


def test_shards_by_folder_glob_and_braces(tmp_path: Path) -> None:
    braces = make_shards(tmp_path / "set", [3, 4])
    for path in (str(tmp_path / "set"), str(tmp_path / "s*" / "train-00?.tar"), braces.path):
        source = open_source(SourceConfig(kind="shards", path=path))
        assert isinstance(source, IndexedSource) and len(source) == 7
        assert source.read(4).key == "train-001.tar/000004"
    assert expand_braces("a{08..11}-{x,y}") == [f"a{n}-{s}" for n in ("08", "09", "10", "11") for s in "xy"]
    assert expand_braces("{0..10..2}") == ["0..10..2"]


def test_samples_of_a_shard(tmp_path: Path) -> None:
    """Long and nested names, members of no interest, a sample without an image, dots in the extension."""
    deep = "folder/" + "long" * 60
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(_directory("folder"))
        add_member(tar, "./one.cls", b"3")
        add_member(tar, "./one.PNG", encoded(1))
        add_member(tar, "./one.txt", "  größer \n".encode())
        add_member(tar, "only.json", b"{}")
        add_member(tar, f"{deep}.seg.png", encoded(2))
        add_member(tar, f"{deep}.json", b'{"prompt": "two"}')
        add_member(tar, "three.png", encoded(3))
        add_member(tar, "three.json", b"{broken")
    source = open_source(SourceConfig(kind="shards", path=str(tmp_path / "a.tar"), caption_column="prompt"))
    assert isinstance(source, IndexedSource)
    found = [source.read(index) for index in range(len(source))]
    assert [(raw.key, number(raw), raw.caption) for raw in found] == [
        ("a.tar/one", 1, None),  # what the recipe names wins
        (f"a.tar/{deep}", 2, "two"),
        ("a.tar/three", 3, None),
    ]


def _directory(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_hub_datasets_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    (rows,) = make_dataset([5])
    rows.save_to_disk(tmp_path / "rows")
    datasets.DatasetDict({"val": rows}).save_to_disk(tmp_path / "splits")
    for name, split in (("rows", "train"), ("splits", "val")):
        source = open_source(SourceConfig(kind="hub", path=str(tmp_path / name), split=split))
        assert sorted(drawn(source, range(5))) == list(range(5))
    with pytest.raises(UserError, match="streaming"):
        open_source(SourceConfig(kind="hub", path=str(tmp_path / "rows"), streaming=True))


def test_damaged_images_of_a_hub_dataset_reach_us_undecoded(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "set").mkdir()
    rows = [{"image": {"bytes": b"damaged", "path": None}}, {"image": None}]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "train-00000.parquet")
    for streaming in (False, True):
        source = open_source(SourceConfig(kind="hub", path=str(tmp_path / "set"), streaming=streaming))
        assert {source.sample(position, 0).data for position in range(2)} == {b"damaged", b""}


def test_string_tables_hold_any_file_name() -> None:
    names = ["", "a", "größe", "bad-\udcff", "x" * 1000]
    table = StringTable(names)
    assert [table[index] for index in range(len(table))] == names
    assert list(StringTable.of(table.content, table.ends)) == names
    assert not len(StringTable([])) and list(StringTable([""])) == [""]
    with pytest.raises(IndexError):
        table[len(names)]


# ---- what is refused: one line that names the path -------------------------------------------------------


def refused(config: SourceConfig) -> str:
    with pytest.raises(UserError) as caught:
        source = open_source(config)
        source.sample(0, 0)
    message = str(caught.value)
    assert "\n" not in message and Path(config.path).name.split("*")[0].split("{")[0] in message
    return message


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("")
    assert "no such folder" in refused(SourceConfig(kind="folder", path=str(tmp_path / "absent")))
    assert "found nothing" in refused(SourceConfig(kind="folder", path=str(tmp_path / "empty")))
    assert "found 1 other files" in refused(SourceConfig(kind="folder", path=str(tmp_path / "texts")))
    assert "not a folder" in refused(SourceConfig(kind="folder", path=str(tmp_path / "texts" / "a.txt")))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "no valid JSON"),
        ("[1]", "expected an object"),
        ('{"caption": "a"}', "expected the string `file_name`"),
    ],
)
def test_broken_caption_files(line: str, problem: str, tmp_path: Path) -> None:
    make_folder(tmp_path, 2)
    (tmp_path / "captions.jsonl").write_text('{"file_name": "a", "caption": "b"}\n' + line)
    message = refused(SourceConfig(kind="folder", path=str(tmp_path)))
    assert "captions.jsonl: line 2" in message and problem in message


def test_shards_absent_damaged_compressed_or_without_images(tmp_path: Path) -> None:
    path = tmp_path / "train-000.tar"
    make_shards(tmp_path, [5])
    whole = path.read_bytes()
    config = SourceConfig(kind="shards", path=str(path))
    for length, problem in (
        (550, "truncated"),
        (700, "damaged"),
        (len(encoded(0)) + 1500, "damaged"),
        (100, "damaged"),
        (0, "damaged"),
    ):
        path.write_bytes(whole[:length])
        assert problem in refused(config), length
    with tarfile.open(path, "w:gz") as tar:
        add_member(tar, "a.png", encoded(0))
    assert "compressed by gzip" in refused(config)
    with tarfile.open(path, "w") as tar:
        add_member(tar, "a.txt", b"no image")
    assert "no images in 1 shards" in refused(config)
    assert "gone-3.tar: cannot be read" in refused(
        SourceConfig(kind="shards", path=str(tmp_path / "gone-{0..3}.tar"))
    )
    assert "no shards found" in refused(SourceConfig(kind="shards", path=str(tmp_path / "none*.tar")))
    (tmp_path / "empty").mkdir()
    assert "no shards found" in refused(SourceConfig(kind="shards", path=str(tmp_path / "empty")))


def test_hub_datasets_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    path = make_parquet(tmp_path / "set", [3]).path
    for streaming in (False, True):
        for options in ({"split": "validation"}, {"subset": "other"}, {"image_column": "picture"}):
            refused(SourceConfig(kind="hub", path=path, streaming=streaming, **options))  # type: ignore[arg-type]
        assert "expected one picture a row" in refused(
            SourceConfig(kind="hub", path=str(_numbers(tmp_path)), streaming=streaming)
        )
        refused(SourceConfig(kind="hub", path=str(tmp_path / "absent"), streaming=streaming))
    (tmp_path / "set" / "train-00000.parquet").write_bytes(b"PAR1 damaged")
    refused(SourceConfig(kind="hub", path=path, streaming=True))


def _numbers(root: Path) -> Path:
    import datasets

    folder = root / "numbers"
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict({"image": [1, 2, 3]}).to_parquet(folder / "train-00000.parquet")
    return folder


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"weight": 0}, "weight: expected a positive number"),
        ({"window": 0}, "window: expected 1 or more"),
        ({"path": ""}, "path: expected"),
        ({"kind": "tar"}, "kind: "),
        ({"streaming": True}, "streaming: only `hub`"),
        ({"window_size": 3}, "window_size: unknown key"),
    ],
)
def test_source_configs_that_are_refused(options: dict[str, object], problem: str) -> None:
    source = {"kind": "folder", "path": "x", **options}
    with pytest.raises(ConfigError) as caught:
        validate(DataConfig, {"image_size": 64, "sources": [source]}, where="recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: sources.0.") and problem in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sources": []}, "sources: expected at least one"),
        ({"image_size": 0}, "image_size: expected 1 to 16384"),
        ({"workers": -1}, "workers: expected 0 to 256"),
        ({"max_corrupt_share": 2}, "max_corrupt_share: expected a share"),
        ({"max_pixels": 10**9}, "max_pixels: expected at most"),
    ],
)
def test_data_configs_that_are_refused(options: dict[str, object], problem: str) -> None:
    data = {"image_size": 64, "sources": [{"kind": "folder", "path": "x"}], **options}
    with pytest.raises(ConfigError, match=problem):
        validate(DataConfig, data, where="recipe.yaml")
