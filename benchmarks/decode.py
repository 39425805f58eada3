"""Pictures per second of a core, from a JPEG to a square of pixels: ours, a plain loop of Pillow's, and torchvision's.

    python -m benchmarks.decode --photos FOLDER

FOLDER's photographs are laid together to JPEGs of 1536 x 1024 and 3072 x 2048 px, so that detail is as fine as cameras
make it. Each way of decoding runs in the loading processes that training uses. A row has the median of the rounds,
which take turns, so that a change of the machine meets all of them. CPU seconds are those of the workers: they say what
a core does though others use it too; what two workers gain on one is told by both clocks.
"""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.command import described_parser, positive
from common.data.config import MAX_PIXELS
from common.data.images import ImageTransform, open_resized, read_image
from common.data.workers import in_workers
from common.errors import UserError, run_cli

SHAPES = ((1536, 1024), (3072, 2048))
SIZES = (256, 512)
Decode = Callable[[bytes, int], Tensor]
"""A JPEG and a size -> uint8 (3, size, size), the centre."""


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="FOLDER", help="JPEGs, searched recursively"
    )
    parser.add_argument("--pictures", type=positive, default=48, help="decoded in a round (default: 48)")
    parser.add_argument("--rounds", type=positive, default=3, help="default: 3")
    arguments = parser.parse_args()
    photos = sorted(arguments.photos.rglob("*.jpg"))
    if not photos:
        raise UserError(f"{arguments.photos}: no .jpg there")
    torch.set_num_threads(1)
    print(
        "| JPEG | to | decoded by | pictures a CPU second | a second, 1 worker | 2 workers, CPU | 2 workers, wall |"
    )
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        jpegs = list(mosaics(photos, shape))
        for size in SIZES:
            for row in compare(jpegs, size, arguments.pictures, arguments.rounds):
                print(f"| {shape[0]} x {shape[1]} | {size} px | {row} |", flush=True)


def compare(jpegs: list[bytes], size: int, count: int, rounds: int) -> Iterator[str]:
    """A row for each way: what a core does, and twice what two workers gain, 1.00 being all that two can."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, decode in WAYS.items():
            for workers in (1, 2):
                found.setdefault((name, workers), []).append(
                    timed(decode, jpegs, size, count * workers, workers)
                )
    for name in WAYS:
        (cpu, wall), (cpu_2, wall_2) = (
            tuple(median(values) for values in zip(*found[name, workers], strict=True)) for workers in (1, 2)
        )
        yield f"{name} | {cpu:.0f} | {wall:.0f} | {cpu_2 / cpu:.2f} | {wall_2 / wall / 2:.2f}"


def timed(decode: Decode, jpegs: list[bytes], size: int, count: int, workers: int) -> tuple[float, float]:
    """Pictures per CPU second of the workers, and per second by the clock."""

    def load(numbers: list[int]) -> Tensor:
        return torch.stack([decode(jpegs[number % len(jpegs)], size) for number in numbers])

    def plan() -> Iterator[list[int]]:
        return ([*range(first, min(first + 8, count))] for first in range(0, count, 8))

    before, start = children(), time.perf_counter()
    done = sum(len(part) for part in in_workers(load, plan, workers, 4))
    wall, used = time.perf_counter() - start, children() - before
    assert done == count
    return count / used, count / wall


def children() -> float:
    """CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(content: bytes, size: int, exact: bool) -> Tensor:
    picture = open_resized(content, size, MAX_PIXELS, exact)
    return ImageTransform(size, "center", flip=False)(picture, np.random.default_rng(0))


def pillow(content: bytes, size: int) -> Tensor:
    with Image.open(io.BytesIO(content)) as picture:
        rgb = picture.convert("RGB")
    width, height = (size if edge == min(rgb.size) else int(size * edge / min(rgb.size)) for edge in rgb.size)
    small = rgb.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.asarray(small.crop((left, top, left + size, top + size)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def torchvisions(content: bytes, size: int) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import center_crop, resize

    pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    small = resize(pixels, [size], InterpolationMode.BICUBIC, antialias=True)
    cropped: Tensor = center_crop(small, [size, size])
    return cropped


def mosaics(photos: list[Path], shape: tuple[int, int], count: int = 8) -> Iterator[bytes]:
    """JPEGs of `shape`, each covered with photographs at their own size."""
    number = 0
    for _ in range(count):
        page, top = Image.new("RGB", shape), 0
        while top < shape[1]:
            left = lowest = 0
            while left < shape[0]:
                photo = read_image(photos[number % len(photos)])
                number += 1
                page.paste(photo, (left, top))
                left, lowest = left + photo.width, max(lowest, photo.height)
            top += lowest
        buffer = io.BytesIO()
        page.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


WAYS: dict[str, Decode] = {
    "ours": partial(ours, exact=False),
    "ours, exact": partial(ours, exact=True),
    "Pillow": pillow,
    "torchvision": torchvisions,
}

if __name__ == "__main__":
    run_cli(main)
