"""Training batches read from a web server and from S3, in good weather and in bad, beside those from disk.

    python -m benchmarks.remote_reads --out runs/remote_reads

Servers, and the proxy that spoils answers, are processes of their own on the loopback (`benchmarks.loopback`); pictures
are JPEGs of 256 px written for the purpose, in tars and in parquet. The loader is the trainer's, with `--workers`. Each
place is read for two epochs with a cache of its own, in turns with the disk: the first downloads, the second finds
everything kept. Printed are the pictures a second over those from disk. Batches are compared bit for bit: pixels,
captions, keys and their order. The exit status is 1 if one differs.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.loopback import NOBODY, environment, s3_server, upload, weather, web_server
from common.command import described_parser
from common.data.batch import Batch
from common.data.config import DataConfig, SourceConfig
from common.data.remote import ranges
from common.data.remote.retries import retries
from common.data.stream import training_loader
from common.files import write_json

BATCH, WINDOW = 16, 4
TURN = 5  # batches that are read from one place, then from the other
KINDS = {"shards": "tar", "parquet": "parquet"}


@dataclass
class Row:
    place: str
    format: str
    first: float  # pictures/s of the first epoch, which downloads, over those from disk
    second: float  # of the second, which finds all in the node's cache
    retries: int
    alike: bool


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures, caches and results")
    parser.add_argument("--pictures", type=int, default=320, help="default: %(default)s")
    parser.add_argument(
        "--block", type=int, default=64 << 10, help="bytes of a request (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--share", type=float, default=0.1, help="of answers in bad weather (default: %(default)s)"
    )
    arguments = parser.parse_args()
    data = arguments.out / "data"
    shutil.rmtree(arguments.out, ignore_errors=True)
    write_sets(data, arguments.pictures)
    rows: list[Row] = []
    ranges.BLOCK = arguments.block
    with ExitStack() as servers:
        web = servers.enter_context(served("web", str(data)))
        stormy_web = servers.enter_context(served("weather", web, arguments.share))
        store = servers.enter_context(served("s3", str(data)))
        stormy_store = servers.enter_context(served("weather", store, arguments.share))
        print("| place | format | first epoch | second epoch | retries | batches |")
        for format, ending in KINDS.items():
            for place, root, endpoint in (
                ("http", web, ""),
                ("http, bad weather", stormy_web, ""),
                ("S3", "s3://bucket", store),
                ("S3, bad weather", "s3://bucket", stormy_store),
            ):
                disk, away = (
                    SourceConfig(kind=format, path=f"{at}/{ending}/{{0..7}}.{ending}", window=WINDOW)  # type: ignore[arg-type]
                    for at in (data, root)
                )
                with environment(
                    VQRAE_CACHE=str(arguments.out / "cache" / str(len(rows))),
                    AWS_ENDPOINT_URL_S3=endpoint,
                    AWS_ACCESS_KEY_ID=NOBODY["aws_access_key_id"],
                    AWS_SECRET_ACCESS_KEY=NOBODY["aws_secret_access_key"],
                ):
                    row = measured(place, format, disk, away, arguments.pictures, arguments.workers)
                rows.append(row)
                said = "equal" if row.alike else "DIFFER"
                print(
                    f"| {row.place} | {row.format} | {row.first:.2f} | {row.second:.2f} | {row.retries} | {said} |",
                    flush=True,
                )
    write_json(arguments.out / "rows.json", [vars(row) for row in rows])
    sys.exit(not all(row.alike for row in rows))


def measured(
    place: str, format: str, disk: SourceConfig, away: SourceConfig, pictures: int, workers: int
) -> Row:
    """Both are read in turns, some batches each, so that whatever else the machine does befalls both."""
    before = retries.number
    opened = [
        training_loader(
            DataConfig(image_size=256, sources=(source,), workers=workers, prefetch=1), 1, micro_batch=BATCH
        )
        for source in (disk, away)
    ]
    loaders = [iter(loader) for loader in opened]
    alike, ratios = True, []
    for _ in range(2):
        seconds = [0.0, 0.0]
        for _ in range(pictures // BATCH // TURN):
            digests = []
            for number, loader in enumerate(loaders):
                start = time.perf_counter()
                digests.append([digest(batch) for batch in islice(loader, TURN)])
                seconds[number] += time.perf_counter() - start
            alike &= digests[0] == digests[1]
        ratios.append(seconds[0] / seconds[1])
    return Row(place, format, ratios[0], ratios[1], retries.number - before, alike)


def digest(batch: Batch) -> str:
    """Of all that a batch says."""
    found = hashlib.blake2b(batch["pixels"].numpy().tobytes())
    found.update(repr((batch["caption"], batch["key"], batch["skipped"])).encode())
    return found.hexdigest()


@contextmanager
def served(kind: str, *arguments: object) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, kind, *arguments))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("stop")
        process.join(10)


def _serve(pipe: Connection, kind: str, *arguments: str) -> None:
    with ExitStack() as stack:
        if kind == "web":
            url = stack.enter_context(web_server(Path(arguments[0]))).url
        elif kind == "weather":
            kinds = ["500", "503", "reset", "short", "lie"]
            url = stack.enter_context(weather(arguments[0], float(arguments[1]), kinds=kinds)).url
        else:
            url = stack.enter_context(s3_server(["bucket"]))
            root = Path(arguments[0])
            upload(
                url,
                "bucket",
                {str(path.relative_to(root)): path for path in root.rglob("*.*") if path.is_file()},
            )
        pipe.send(url)
        pipe.recv()


def write_sets(root: Path, pictures: int) -> None:
    """The same pictures in 8 tars and in 8 tables with row groups of 50."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for ending in KINDS.values():
        (root / ending).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        images = [jpeg(rng) for _ in range(pictures // 8)]
        with tarfile.open(root / "tar" / f"{number}.tar", "w") as tar:
            for place, image in enumerate(images):
                for ending, content in (("jpg", image), ("txt", f"picture {place}".encode())):
                    member = tarfile.TarInfo(f"{place:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        captions = [f"picture {place}" for place in range(len(images))]
        table = pa.table({"image": images, "text": captions})
        pq.write_table(table, root / "parquet" / f"{number}.parquet", row_group_size=50)


def jpeg(rng: np.random.Generator) -> bytes:
    smooth = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(smooth).astype(np.int16) + rng.integers(-12, 13, (256, 256, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
