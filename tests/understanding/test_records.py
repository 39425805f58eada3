"""The same conversations in five formats give the same samples in the same order; and damaged ones of each are told."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from text_tokenizers import llama_text_tokenizer
from torch import Tensor

from common.errors import FailedRead, UserError
from understanding.batch_plan import BatchPlan
from understanding.batches import read_batch, training_batches
from understanding.config import ConversationSource
from understanding.conversation import BadSample
from understanding.dataset import ConversationDataset
from understanding.text_tokenizer import prepare_text_tokenizer

SIDE, IMAGE_TOKENS, COUNT = 8, 4, 23
TEXT_TOKENIZER = prepare_text_tokenizer(llama_text_tokenizer(), "vicuna_v1")
FORMATS = ("json", "lines", "parquet", "hub", "shards")


def to_pixels(image: Image.Image) -> Tensor:
    small = np.asarray(image.resize((SIDE, SIDE)), np.float32) / 255
    return torch.from_numpy(small.transpose(2, 0, 1))


def open_dataset(*sources: ConversationSource) -> ConversationDataset:
    return ConversationDataset(
        sources, TEXT_TOKENIZER, to_pixels, image_tokens=IMAGE_TOKENS, image_size=SIDE, max_length=200
    )


def written(pictures: Path) -> list[dict[str, Any]]:
    """Records with one picture, two, none, one that no message mentions, one that is missing or torn, and a bad one."""
    names = sorted(path.name for path in pictures.iterdir())
    records = []
    for number in range(COUNT):
        shown = [names[(number + place) % len(names)] for place in range((1, 2, 0, 1, 1)[number % 5])]
        mentions = "" if number % 5 == 3 else "<image>\n" * len(shown)
        question = f"{mentions}{'How many? ' * (number % 7)}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"{number}"}]
        records.append({"id": f"r{number}", "images": shown, "conversations": turns, "model": "x"})
    records[4]["conversations"][0]["from"] = "narrator"
    (pictures / "torn.png").write_bytes((pictures / names[0]).read_bytes()[:40])
    records[9]["images"] = ["torn.png"]
    return records


def content(pictures: Path, record: dict[str, Any]) -> list[bytes]:
    return [(pictures / name).read_bytes() for name in record["images"]]


def write_shards(folder: Path, records: list[dict[str, Any]], pictures: Path, each: int = 9) -> str:
    folder.mkdir()
    for shard, first in enumerate(range(0, len(records), each)):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number, record in enumerate(records[first : first + each], first):
                said = {key: value for key, value in record.items() if key != "images"}
                add(tar, f"{number:04d}.json", json.dumps(said).encode())
                for place, picture in enumerate(content(pictures, record)):
                    add(tar, f"{number:04d}.{place}.png", picture)
    return str(folder)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_tables(folder: Path, records: list[dict[str, Any]], pictures: Path) -> tuple[str, str]:
    """Two parquet files as other programs write them, and a folder of `save_to_disk` with images as a feature."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {**record, "images": [{"bytes": one, "path": None} for one in content(pictures, record)]}
        for record in records
    ]
    (folder / "tables").mkdir()
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.slice(0, 12), folder / "tables" / "0.parquet", row_group_size=5)
    pq.write_table(table.slice(12), folder / "tables" / "1.parquet", row_group_size=5)
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features(
        id=datasets.Value("string"),
        images=datasets.List(datasets.Image()),
        conversations=datasets.List(turn),
        model=datasets.Value("string"),
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "hub", max_shard_size="20KB")
    return str(folder / "tables"), str(folder / "hub")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ConversationSource]]:
    folder = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQRAE_CACHE", str(folder / "cache"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "hf")
        tiny.write_pictures(folder / "images", 5)
        records = written(folder / "images")
        (folder / "list.json").write_text(json.dumps({"version": 1, "data": records}))
        (folder / "lines.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        parquet, hub = write_tables(folder, records, folder / "images")
        shards = write_shards(folder / "shards", records, folder / "images")
        images = str(folder / "images")
        yield {
            "json": ConversationSource(annotations=str(folder / "list.json"), images=images),
            "lines": ConversationSource(annotations=str(folder / "lines.jsonl"), images=images),
            "parquet": ConversationSource(kind="parquet", annotations=parquet),
            "hub": ConversationSource(kind="hub", annotations=hub),
            "shards": ConversationSource(kind="shards", annotations=shards),
        }


def batches(dataset: ConversationDataset, group: str, workers: int = 0) -> list[Any]:
    plan = BatchPlan(
        dataset.lengths,
        dataset.images,
        usable=dataset.usable,
        global_size=4,
        seed=5,
        group=group,
        spans=dataset.spans,
    )
    steps = training_batches(
        dataset,
        plan,
        rank=0,
        world=1,
        micro_size=2,
        packed=False,
        start=0,
        steps=plan.steps(2),
        workers=workers,
        prefetch=1,
    )
    return [batch for step in steps for batch in step]


def test_five_formats_one_order(sources: dict[str, ConversationSource]) -> None:
    datasets = {name: open_dataset(source) for name, source in sources.items()}
    expected = datasets["json"]
    assert len(expected) == COUNT and int(expected.usable.sum()) == COUNT - 1
    account = expected.accounts()[0][1]
    assert account.samples == COUNT - 1
    assert account.left_out == {
        "that cannot be trained on": 1,
        "whose pictures no message mentions: they come first": 4,
        "with a field `model`, which is not read": COUNT - 1,
    }
    golden = batches(expected, "modality_length")
    assert sum(len(batch["skipped"]) for batch in golden) == 2  # the torn picture, in each of two epochs
    for name in FORMATS:
        dataset = datasets[name]
        assert dataset.accounts()[0][1] == account, name
        assert [problem.reason for _, problem in dataset.problems()] == ["unknown role"], name
        with pytest.raises(BadSample, match="corrupt image"):
            dataset.read(9)
        assert dataset.name(4) == f"{sources[name].annotations}: r4"
        found = batches(dataset, "modality_length")
        assert len(found) == len(golden) > 10
        for ours, theirs in zip(found, golden, strict=True):
            for key in ("input_ids", "attention_mask", "predictors", "targets", "pixel_values"):
                assert torch.equal(ours[key], theirs[key]), (name, key)  # type: ignore[literal-required]
            assert len(ours["skipped"]) == len(theirs["skipped"])


def test_sources_of_several_kinds_are_mixed_by_weight(sources: dict[str, ConversationSource]) -> None:
    """Two recipes whose sources are the same by content: the same batches."""
    from dataclasses import replace

    def mixed(first: str, second: str, workers: int) -> list[Any]:
        both = replace(sources[first], weight=0.5), replace(sources[second], weight=2.0)
        return batches(open_dataset(*both), "none", workers)

    golden, found = mixed("json", "json", 0), mixed("shards", "parquet", 2)
    assert sum(batch["samples"] for batch in golden) == 2 * (11 + 44)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(golden, found, strict=True))
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(golden, found, strict=True))


def test_the_index_reads_no_pictures(
    sources: dict[str, ConversationSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from common.data.tars.shard_index import ShardIndex
    from understanding.records.open import open_records
    from understanding.records.source import HELD

    read: list[str] = []
    reader = ShardIndex.read
    monkeypatch.setattr(
        ShardIndex,
        "read",
        lambda self, path, member: (
            read.append(self.endings[self.ending[member]]),
            reader(self, path, member),
        )[1],
    )
    for name in ("shards", "parquet", "hub"):
        records = open_records(sources[name])
        found = list(records.scan())
        assert len(found) == COUNT
        for each in found:
            pictures = each.record.get("images") or []
            assert all(picture == HELD for picture in pictures)
            whole = records.read(each.place, each.size).get("images") or []
            assert len(whole) == len(pictures)
    assert read.count("json") == 2 * COUNT  # scanned, and read
    assert len(read) - read.count("json") == sum((1, 2, 0, 1, 1)[number % 5] for number in range(COUNT))


def test_bytes_that_cannot_be_had_cost_their_sample(
    sources: dict[str, ConversationSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.data.tars.shard_index import ShardIndex

    dataset = open_dataset(sources["shards"])

    def fail(self: ShardIndex, path: str, member: int) -> bytes:
        raise FailedRead(f"{path}: cannot be read: Input/output error")

    monkeypatch.setattr(ShardIndex, "read", fail)
    (line,) = read_batch(dataset, [(0,)], packed=False)["skipped"]
    assert (
        line.endswith("000.tar: cannot be read: Input/output error") and "bytes that could not be had" in line
    )


def table(folder: Path, rows: list[dict[str, Any]]) -> ConversationSource:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "one.parquet")
    return ConversationSource(kind="parquet", annotations=str(folder / "one.parquet"))


PUBLISHED: dict[str, dict[str, Any]] = {
    "Cauldron": {"texts": [{"user": "How many?", "assistant": "4", "source": "x"}], "images": 2},
    "OneVision": {"id": "1", "image": 1, "data_source": "x",
                  "conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "4"}]},
    "ShareGPT": {"images": 1, "messages": [{"role": "user", "content": "<image>How many?"},
                                           {"role": "assistant", "content": "4"}]},
    "bytes": {"image": 0, "conversations": [{"role": "user", "content": "How many?"},
                                            {"role": "assistant", "content": "4"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_as_they_are_published(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    tiny.write_pictures(tmp_path / "images", 2)
    one, two = ((tmp_path / "images" / file).read_bytes() for file in ("000.png", "001.png"))
    row = dict(PUBLISHED[name])
    count = row.get("image", row.get("images"))
    if "images" in row:
        row["images"] = [{"bytes": each, "path": "x.png"} for each in (one, two)[:count]]
    else:
        row["image"] = {"bytes": one, "path": None} if count else one
    dataset = open_dataset(table(tmp_path, [row]))
    assert dataset.usable.all()
    pixels = dataset.read(0).pixel_values
    assert len(pixels) == max(count, 1) == dataset.images[0]
    with Image.open(tmp_path / "images" / "000.png") as first:
        assert torch.equal(pixels[0], to_pixels(first.convert("RGB")))


def test_a_cell_that_is_no_text_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    talk = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}]
    raw = pa.array([b"1", b"caf\xe9", b"3"])
    ids = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    rows = pa.table({"id": ids, "messages": pa.array([talk] * 3)})
    pq.write_table(rows, tmp_path / "one.parquet")
    dataset = open_dataset(ConversationSource(kind="parquet", annotations=str(tmp_path / "one.parquet")))
    assert dataset.usable.tolist() == [True, False, True]
    ((index, problem),) = dataset.problems()
    assert index == 1 and problem.reason == "text that is none" and "0xe9" in dataset.describe(index, problem)


def test_columns_that_the_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    tiny.write_pictures(tmp_path / "images", 1)
    photo = {"bytes": (tmp_path / "images" / "000.png").read_bytes(), "path": None}
    talk = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}]
    source = table(tmp_path, [{"photo": photo, "talk": talk, "messages": talk}])
    with pytest.raises(UserError, match="a picture under a name that is not read: photo"):
        open_dataset(source)
    assert open_dataset(
        replace(source, image_column="photo", conversation_column="talk")
    ).images.tolist() == [1]
    with pytest.raises(UserError, match=r"no column 'picture' in this dataset: photo, talk, messages"):
        open_dataset(replace(source, image_column="picture"))


def test_what_lies_in_a_shard(tmp_path: Path) -> None:
    """Pictures in the order that the JSON names them in, or that of their numbers; what does not fit is left out."""
    from dataclasses import replace

    tiny.write_pictures(tmp_path / "images", 3)
    pictures = [(tmp_path / "images" / f"{number:03d}.png").read_bytes() for number in range(3)]

    def talk(count: int, **fields: Any) -> bytes:
        turns = [{"role": "user", "content": "<image>" * count + "?"}, {"role": "assistant", "content": "4"}]
        return json.dumps({"messages": turns, **fields}).encode()

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a/0.json", talk(2, images=["0.right.png", "0.left.png"]))
        for place, ending in enumerate(("left", "right")):
            add(tar, f"a/0.{ending}.png", pictures[place])
        add(tar, "a/1.json", talk(3))
        for place in (10, 2, 9):
            add(tar, f"a/1.{place}.png", pictures[place % 4])
        add(tar, "a/2.json", talk(1, image="coco/x.jpg"))
        add(tar, "a/2.png", pictures[2])
        add(tar, "a/3.json", talk(2, images=["x", "y"]))
        add(tar, "a/3.png", pictures[0])
        add(tar, "a/4.json", b"{")
        add(tar, "a/5.txt", b"a caption")
        add(tar, "a/5.png", pictures[0])
    source = ConversationSource(kind="shards", annotations=str(tmp_path / "a.tar"))
    dataset = open_dataset(source)
    assert dataset.images.tolist() == [2, 3, 1, 0, 0, 0]
    expected = [[1, 0], [2, 1, 2], [2]]
    for index, order in enumerate(expected):
        for found, picture in zip(dataset.read(index).pixel_values, order, strict=True):
            with Image.open(io.BytesIO(pictures[picture])) as image:
                assert torch.equal(found, to_pixels(image.convert("RGB")))
    told = [dataset.describe(index, problem) for index, problem in dataset.problems()]
    assert [line.removeprefix(f"{source.annotations}: ") for line in told] == [
        "record 3: the JSON names other pictures than lie beside it: 2 for png",
        "record 4: damaged JSON: a.tar/a/4: no valid JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
        "record 5: a sample without a .json: a.tar/a/5",
    ]
    (tmp_path / "half.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:5000])
    both = replace(source, annotations=str(tmp_path))
    with pytest.raises(UserError, match=r"1 of 2 shards cannot be read, more than max_damaged_shards allows"):
        open_dataset(both)
    assert len(open_dataset(replace(both, max_damaged_shards=0.5))) == 6
    left = open_dataset(replace(source, image_column="left.png"))
    assert left.images.tolist()[:1] == [0]  # two places for one picture


@pytest.mark.parametrize("kind", ["parquet", "hub", "shards"])
def test_nothing_there(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    suffix = {"parquet": "parquet", "hub": "json", "shards": "tar"}[kind]
    for place in (tmp_path / "gone", tmp_path / f"damaged.{suffix}"):
        if place.suffix:
            place.write_bytes(b"x" * 999)
        with pytest.raises(UserError) as raised:
            open_dataset(ConversationSource(kind=kind, annotations=str(place)))  # type: ignore[arg-type]
        assert str(place) in str(raised.value) and "\n" not in str(raised.value)
