"""Small image sets in every format that a source reads. Image n is filled with a colour that encodes n."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.config import SourceConfig

SIZE = 8


def encoded(number: int, size: int = SIZE) -> bytes:
    """A PNG of `size` x `size` pixels of colour (number mod 256, number div 256, column)."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = number % 256, number // 256, np.arange(size)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(root: Path, count: int) -> SourceConfig:
    """Images in two levels of folders, with captions for the even ones."""
    lines = []
    for number in range(count):
        file = root / f"part{number % 3}" / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number))
        if number % 2 == 0:
            name = file.relative_to(root).as_posix()
            lines.append(json.dumps({"file_name": name, "caption": f"number {number}"}))
    (root / "captions.jsonl").write_text("\n".join(lines))
    return SourceConfig(kind="folder", path=str(root))


def make_shards(root: Path, counts: list[int], mixed: bool = True, **options: object) -> SourceConfig:
    """WebDataset tars: `.png` with a `.txt` caption, or where `mixed` a `.json` one for every third."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(counts):
        with tarfile.open(root / f"train-{shard:03d}.tar", "w") as tar:
            for _ in range(count):
                add_member(tar, f"{number:06d}.png", encoded(number))
                if number % 3 or not mixed:
                    add_member(tar, f"{number:06d}.txt", f"number {number}".encode())
                else:
                    add_member(
                        tar, f"{number:06d}.json", json.dumps({"caption": f"number {number}"}).encode()
                    )
                number += 1
    path = f"{root}/train-{{000..{len(counts) - 1:03d}}}.tar"
    return SourceConfig(kind="shards", path=path, **options)  # type: ignore[arg-type]


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def make_dataset(counts: list[int]) -> list:  # type: ignore[type-arg]
    """One `datasets.Dataset` per count, with the columns `image` and `text`."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    sets, number = [], 0
    for count in counts:
        rows = []
        for _ in range(count):
            rows.append(
                {"image": {"bytes": encoded(number), "path": f"{number}.png"}, "text": f"number {number}"}
            )
            number += 1
        sets.append(datasets.Dataset.from_list(rows, features=features))
    return sets


def make_parquet(root: Path, counts: list[int], row_group: int = 4, **options: object) -> SourceConfig:
    """A folder of parquet files, which `datasets` reads at random or as a stream."""
    import datasets

    datasets.disable_progress_bars()
    root.mkdir(parents=True, exist_ok=True)
    for file, rows in enumerate(make_dataset(counts)):
        rows.to_parquet(root / f"train-{file:05d}.parquet", batch_size=row_group)
    return SourceConfig(kind="hub", path=str(root), caption_column="text", **options)  # type: ignore[arg-type]


def number_of(pixels: np.ndarray) -> int:
    """Which image of its set a crop (3, S, S) was cut from."""
    return int(pixels[0, 0, 0]) + 256 * int(pixels[1, 0, 0])
