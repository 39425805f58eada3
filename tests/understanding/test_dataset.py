"""LLaVA files as they are published, damaged ones, and what a sample is."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from text_tokenizers import llama_text_tokenizer
from torch import Tensor

from common.errors import UserError
from understanding import conversation
from understanding.batches import read_batch
from understanding.config import ConversationSource
from understanding.conversation import BadSample
from understanding.dataset import ConversationDataset
from understanding.layouts import Fields
from understanding.record_index import RecordIndex
from understanding.records import json_file
from understanding.records.json_file import JsonFile, read_records
from understanding.skipped import SkippedList, check_header, open_listed
from understanding.text_tokenizer import prepare_text_tokenizer

SIDE, IMAGE_TOKENS = 8, 4
TEXT_TOKENIZER = prepare_text_tokenizer(llama_text_tokenizer(), "vicuna_v1")
TURNS = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "4"}]
WORDS = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "5"}]


def to_pixels(image: Image.Image) -> Tensor:
    small = np.asarray(image.resize((SIDE, SIDE)), np.float32) / 255
    return torch.from_numpy(small.transpose(2, 0, 1))


def open_dataset(*paths: Path, max_length: int = 200, **options: Any) -> ConversationDataset:
    """Images lie beside each file, in `images`."""
    samples = options.pop("samples", None)
    return ConversationDataset(
        [
            ConversationSource(annotations=str(path), images=str(path.parent / "images"), samples=samples)
            for path in paths
        ],
        TEXT_TOKENIZER,
        to_pixels,
        image_tokens=IMAGE_TOKENS,
        image_size=SIDE,
        max_length=max_length,
        **options,
    )


def write(folder: Path, records: list[Any], lines: bool = False, name: str = "c.json") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    tiny.write_pictures(tmp_path / "images", 3)
    return tmp_path


def mixed(pictures: Path, lines: bool = False) -> Path:
    """As `llava_v1_5_mix665k`: numbers and strings as ids, folders in paths, records without an image."""
    (pictures / "images" / "coco").mkdir(exist_ok=True)
    (pictures / "images" / "000.png").replace(pictures / "images" / "coco" / "0.png")
    records = [
        {"id": 9, "image": "coco/0.png", "conversations": TURNS},
        {"id": "text-1", "conversations": WORDS, "model": "x"},
        {"id": "9", "image": ["001.png", "002.png"],
         "conversations": [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "no"}]},
        {"image": "gone.png", "conversations": TURNS},
        {"id": "é", "conversations": [{"from": "robot", "value": "x"}]},
    ]  # fmt: skip
    return write(pictures, records, lines)


@pytest.mark.parametrize("lines", [False, True])
def test_what_a_sample_is(pictures: Path, lines: bool) -> None:
    dataset = open_dataset(mixed(pictures, lines))
    assert len(dataset) == 5
    assert dataset.images.tolist() == [1, 0, 2, 1, 0]
    assert dataset.usable.tolist() == [True, True, True, True, False]
    for index in range(3):
        sample = dataset.read(index)
        assert len(sample.ids) == dataset.lengths[index]
        assert np.count_nonzero(sample.learned) == dataset.learned[index] >= 2  # an answer and its end
        assert sample.pixel_values.shape == (dataset.images[index], 3, SIDE, SIDE)
        assert sample.pixel_values.dtype == torch.float32
        image = TEXT_TOKENIZER.convert_tokens_to_ids("<image>")
        assert np.count_nonzero(sample.ids == image) == IMAGE_TOKENS * dataset.images[index]
    with Image.open(pictures / "images" / "002.png") as second:
        assert torch.equal(dataset.read(2).pixel_values[1], to_pixels(second.convert("RGB")))
    assert dataset.pad_id == 0


def test_a_record_is_parsed_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(mixed(pictures))
    assert dataset.with_images() == [0, 2, 3]
    read, asked = JsonFile.read, []

    def count(self: JsonFile, place: int, size: int) -> Any:
        asked.append(place)
        return read(self, place, size)

    monkeypatch.setattr(JsonFile, "read", count)
    for index in range(3):
        dataset.read(index)
    assert len(asked) == len(set(asked)) == 3


def test_what_is_left_out_is_named(pictures: Path) -> None:
    path = mixed(pictures)
    dataset = open_dataset(path)
    with pytest.raises(BadSample) as missing:
        dataset.read(3)
    assert dataset.describe(3, missing.value) == (
        f"{path}: record 3: missing image: {pictures / 'images' / 'gone.png'}"
    )
    (problem,) = dataset.problems()
    assert dataset.describe(*problem) == f"{path}: é: unknown role: 'robot'"


def test_the_list_of_a_run_has_each_line_once(pictures: Path) -> None:
    dataset = open_dataset(mixed(pictures))
    listed = pictures / "skipped.txt"
    for _ in range(2):  # a run, and the run that continues it
        skipped = SkippedList(listed)
        dataset.list_unusable(skipped, 0.2)
        skipped.add(["a: 1: missing image: x", "a: 1: missing image: x"])
    skipped.add([])
    assert len(listed.read_text().splitlines()) == 2
    with pytest.raises(
        UserError, match=r"1 of 5 samples cannot be trained on, more than data.max_skipped_share"
    ):
        dataset.list_unusable(skipped, 0.1)


def test_sources_stand_behind_each_other(pictures: Path) -> None:
    first = write(pictures, [{"id": n, "conversations": WORDS} for n in range(3)], name="a.json")
    second = write(pictures, [{"id": n, "image": f"{n:03d}.png", "conversations": TURNS} for n in range(3)])
    dataset = open_dataset(first, second)
    assert dataset.images.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.name(2) == f"{first}: 2" and dataset.name(3) == f"{second}: 0"
    limited = open_dataset(first, second, limit=2)
    assert limited.images.tolist() == [0, 0, 1, 1] and limited.name(2) == f"{second}: 0"
    with pytest.raises(UserError, match=r"a.json: data.sources.samples: 4 are stated, found 3"):
        open_dataset(first, samples=4)
    assert len(open_dataset(first, samples=3)) == 3


def test_the_index_is_built_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mixed(pictures)
    before = open_dataset(path)
    builds: list[str] = []
    build = RecordIndex._build
    monkeypatch.setattr(RecordIndex, "_build", lambda self: (builds.append(self.records.name), build(self)))
    assert (open_dataset(path).lengths == before.lengths).all()
    assert not builds
    assert (open_dataset(path, max_length=90).lengths <= 90).all()  # another length
    assert len(builds) == 1
    write(pictures, [{"id": 1, "conversations": WORDS}])  # another file
    assert len(open_dataset(path)) == 1
    assert len(builds) == 2
    rows = RecordIndex(JsonFile(str(path)), Fields(), TEXT_TOKENIZER, IMAGE_TOKENS, 200).rows()
    assert isinstance(rows, np.memmap)


def test_images_that_come_later_are_seen(pictures: Path) -> None:
    """The index says nothing of images: repairing them needs no new one."""
    dataset = open_dataset(mixed(pictures))
    with pytest.raises(BadSample, match="missing image"):
        dataset.read(3)
    Image.new("RGB", (9, 9)).save(pictures / "images" / "gone.png")
    assert dataset.read(3).pixel_values.shape == (1, 3, SIDE, SIDE)


def test_corrupt_images(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(good)
    cases = {"text.jpg": b"no image", "empty.png": b"", "cut.jpg": good.read_bytes()[:-900]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadSample, match=f"corrupt image: .*{name}"):
            open_listed(tmp_path / name)
    check_header(good)
    check_header(tmp_path / "cut.jpg")  # its header is sound
    with pytest.raises(BadSample, match="corrupt image"):
        check_header(tmp_path / "text.jpg")
    Image.new("RGB", (130, 2)).save(tmp_path / "thin.png")
    for look in (open_listed, check_header):
        with pytest.raises(BadSample, match=r"130 x 2 pixels, sides over 64:1"):
            look(tmp_path / "thin.png")
        with pytest.raises(BadSample, match=r"missing image: .*none\.png"):
            look(tmp_path / "none.png")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("form", ["list", "indented", "lines", "windows lines", "bom", "wrapped"])
def test_records_lie_where_they_are_said_to(
    form: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "CHUNK", chunk)
    records = [{"id": n, "t": 'é🙂 ] [ , " \\ \ud83d' + "x" * n} for n in range(9)] + [{}, 12, "a"]
    text = {
        "list": json.dumps(records),
        "indented": json.dumps(records, indent=2) + "\n",
        "lines": "\n".join(json.dumps(record) for record in records),
        "windows lines": "\r\n".join(json.dumps(record) for record in records) + "\r\n\r\n",
        "bom": "\ufeff" + json.dumps(records),
        "wrapped": json.dumps({"version": "é", "by": {"name": 1}, "data": records, "more": {"data": [1]}}),
    }[form]
    content = text.replace("\\u00e9", "é").encode()
    path = tmp_path / "x.json"
    path.write_bytes(content)
    found = list(read_records(str(path)))
    assert [value for *_, value in found] == records
    assert all(json.loads(content[offset : offset + size]) == value for offset, size, value in found)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'[{"id": 1}, {"id": 2', "from byte 12 on"),
        (b'[{"id": 1}, {"id": 2},', "the list is cut off"),
        (b'[{"id": 1}, {"id": }]', "from byte 12 on"),
        (b'{"id": 1}\n{"id": oops}\n', "from byte 10 on"),
        (b'[{"id": "\xff"}]', "codec can't decode"),
        (b"<html>not found</html>", "from byte 0 on"),
        (b"PK\x03\x04", "from byte 0 on"),
        (
            b'[{"id": ' + b'{"a":' * 20000 + b"1" + b"}" * 20000 + b"}]",
            "from byte 1 on: a record is nested too deeply",
        ),
        (b'{"data": [{"id": 1}], "x": 1', "the object around the list is cut off"),
        (b'{"data": [{"id": 1}', "the list is cut off"),
        (b"[]", "holds no records"),
        (b"", "holds no records"),
        (
            b'{"images": [], "annotations": []}',
            "none of 1 samples can be trained on; the first: empty conversation",
        ),
    ],
)
def test_damaged_files(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"c.json: data.sources.annotations: .*{complaint}") as error:
        open_dataset(path)
    assert "\n" not in str(error.value)


def test_what_cannot_work_at_all(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"gone.json: data.sources.annotations: No such file"):
        open_dataset(pictures / "gone.json")
    path = mixed(pictures)
    with pytest.raises(UserError, match=r"data.max_length: 4 leaves no room for text beside the 4 tokens"):
        open_dataset(path, max_length=IMAGE_TOKENS)
    with pytest.raises(
        UserError, match=r"none of 5 samples can be trained on; the first: nothing left to learn"
    ):
        open_dataset(path, max_length=IMAGE_TOKENS + 1)
    dataset = open_dataset(path)
    os.truncate(path, 100)
    with pytest.raises(UserError, match="was changed while it is in use"):
        dataset.read(1)
    monkeypatch.setenv("VQRAE_CACHE", str(path))
    with pytest.raises(UserError, match="VQRAE_CACHE"):
        open_dataset(write(pictures, [{"conversations": WORDS}]))


ODD = {
    "picture": ({"image": "data:image/png;base64,%s"}, None),
    "a key twice": ('{"image": "0.png", "image": "1.png", "conversations": %s}', "a key stands twice: 'image'"),
    "half an emoji": ({"conversations": [WORDS[0], {"from": "gpt", "value": "5 \ud83d"}]}, "text that is none"),
    "half an emoji as id": ({"id": "\ud83d", "image": "gone.png"}, "missing image"),
    "a NUL": ({"image": "a\0b.png"}, "corrupt image: .*embedded null byte"),
    "long": ({"image": "x" * 5000}, "corrupt image: .*File name too long"),
    "a folder": ({"image": "."}, "corrupt image: .*Is a directory"),
    "text": ({"image": "data:text/plain,hello"}, "missing image"),
    "torn": ({"image": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"}, "corrupt image: [0-9]+ bytes in the record"),
    "far": ({"image": "https://127.0.0.1:9/a.png"}, "bytes that could not be had: https://127.0.0.1:9/a.png"),
    "NaN": ({"score": float("nan")}, None),
    "huge": ('{"score": %s, "conversations": %%s}' % ("9" * 5000), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_one_odd_record_costs_itself_alone(
    name: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, the others are read; and it is named, on one line that can be written down."""
    monkeypatch.setattr("common.data.remote.retries.ATTEMPTS", 1)
    odd, problem = ODD[name]
    turns = TURNS if "image" in odd else WORDS
    if isinstance(odd, str):
        text = odd % json.dumps(turns)
    else:
        inline = base64.b64encode((pictures / "images" / "000.png").read_bytes()).decode()
        text = json.dumps({"id": 3, "conversations": turns, **odd}).replace("%s", inline)
    sound = [json.dumps({"id": n, "image": f"{n:03d}.png", "conversations": TURNS}) for n in range(3)]
    path = pictures / "c.json"
    path.write_text(f"[{', '.join([*sound, text])}]")
    dataset = open_dataset(path)
    batch = read_batch(dataset, [(index,) for index in range(4)], packed=False)
    assert batch["samples"] == 4 and len(batch["skipped"]) == (problem is not None)
    unusable = [dataset.describe(*found) for found in dataset.problems()]
    assert len(batch["input_ids"]) == 3 + (problem is None)
    for line in batch["skipped"]:
        assert re.match(rf"{re.escape(str(path))}: .*: {problem}", line) and len(line) < 1000
        line.encode()
    assert unusable in ([], batch["skipped"])


def test_a_library_that_refuses_a_sample_costs_that_sample(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is met: while pictures are made squares, or while texts are tokenised for the index."""
    path = write(pictures, [{"id": n, "image": f"{n:03d}.png", "conversations": TURNS} for n in range(3)])
    dataset = open_dataset(path)

    def refuse(image: Image.Image) -> Tensor:
        raise ZeroDivisionError("division by\nzero")

    monkeypatch.setattr(dataset, "_to_pixels", refuse)
    batch = read_batch(dataset, [(1,)], packed=False)
    assert batch["skipped"] == [f"{path}: 1: refused by a library: ZeroDivisionError: division by zero"]
    monkeypatch.setattr(dataset, "_to_pixels", lambda image: torch.empty(10**15))
    with pytest.raises(RuntimeError, match="memory"):  # that is no fault of the sample
        read_batch(dataset, [(1,)], packed=False)

    whole = conversation.read_conversation

    def pick(record: Any, *rest: Any) -> Any:
        if record["id"] == 2:
            raise OverflowError("too large")
        return whole(record, *rest)

    monkeypatch.setattr("understanding.record_index.read_conversation", pick)
    monkeypatch.setattr("understanding.dataset.read_conversation", pick)
    again = open_dataset(path, max_length=199)
    assert again.usable.tolist() == [True, True, False]
    assert [str(problem) for _, problem in again.problems()] == [
        "refused by a library: OverflowError: too large"
    ]


def test_texts_that_a_tokenizer_refuses_cost_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    talks = [
        conversation.read_conversation({"conversations": [WORDS[0], {"from": "gpt", "value": f"{n}"}]})
        for n in range(5)
    ]
    render = type(TEXT_TOKENIZER).apply_chat_template

    def refuse(self: Any, batch: Any, **options: Any) -> Any:
        if any(talk[1]["content"] == "3" for talk in batch):
            raise TypeError("TextEncodeInput must be Union")
        return render(self, batch, **options)

    monkeypatch.setattr(type(TEXT_TOKENIZER), "apply_chat_template", refuse)
    results = conversation.encode_all(talks, TEXT_TOKENIZER, IMAGE_TOKENS, 200)
    assert [isinstance(result, BadSample) for result in results] == [False, False, False, True, False]
    assert str(results[3]) == "refused by a library: TypeError: TextEncodeInput must be Union"


def test_real_photographs(photographs: Path) -> None:
    path = photographs / "coco128" / "llava_conversations.json"
    if not path.is_file():
        pytest.skip("no coco128 there")
    source = ConversationSource(annotations=str(path), images=str(path.parent))
    dataset = ConversationDataset(
        [source], TEXT_TOKENIZER, to_pixels, image_tokens=256, image_size=SIDE, max_length=2048
    )
    assert len(dataset) == 126 and dataset.usable.all() and (dataset.images == 1).all()
    assert dataset.read(5).pixel_values.std() > 0


def test_a_name_that_is_no_utf8_stands_in_the_list(tmp_path: Path) -> None:
    listed = SkippedList(tmp_path / "skipped.txt")
    for _ in range(2):  # the second time it is known
        listed.add(["set.json: 7: caf\udce9.jpg is missing"])
    assert (tmp_path / "skipped.txt").read_text() == "set.json: 7: caf\\udce9.jpg is missing\n"
