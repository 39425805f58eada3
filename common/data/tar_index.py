"""Where the samples of a WebDataset tar lie. Headers are scanned once, and offsets kept in the data cache."""

from __future__ import annotations

import logging
import os
import random
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.data.blobs import forget_open_files
from common.data.images import EXTENSIONS
from common.errors import UserError, refusing
from common.files import cache_file, whole_cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardIndex:
    """Where a shard's n samples lie, in bytes from the start of the tar."""

    keys: np.ndarray  # (n,) bytes
    images: np.ndarray  # (n, 2) int64: offset, size
    texts: np.ndarray  # (n, 3) int64: offset, size (0: none), 1 if JSON


def count_samples(paths: list[str]) -> np.ndarray:
    """Samples per shard; shards not seen before are scanned first.

    Each process starts at a shard of its own and skips what the cache has, so ranks that start together share
    the work of a first scan without talking to each other.
    """
    load_index.cache_clear()  # a shard may have been written anew since this process last read it
    forget_open_files()
    order = list(range(len(paths)))
    random.Random(os.getpid()).shuffle(order)
    counts = np.zeros(len(paths), dtype=np.int64)
    scanned = 0
    for shard in order:
        cached = _index_file(paths[shard])
        if not cached.is_file():
            _scan(paths[shard], cached)
            scanned += 1
            if scanned % 100 == 0:
                log.info("indexed %d shards, %d in all", scanned, len(paths))
        counts[shard] = len(load_index(paths[shard]).keys)
    return counts


def _index_file(path: str) -> Path:
    with refusing(f"{path}: cannot read this shard", OSError):
        status = Path(path).stat()
    return cache_file("shards", str(Path(path).absolute()), status.st_size, status.st_mtime_ns, suffix=".npz")


@lru_cache(maxsize=64)  # a few windows of shards
def load_index(path: str) -> ShardIndex:
    cached = _index_file(path)
    try:
        with np.load(cached, allow_pickle=False) as arrays:
            return ShardIndex(arrays["keys"], arrays["images"], arrays["texts"])
    except FileNotFoundError:  # the cache was emptied meanwhile
        return _scan(path, cached)


def _scan(path: str, cached: Path) -> ShardIndex:
    """Read a tar's headers and write its index into the cache.

    Raises:
        UserError: no tar, compressed, or truncated; names the shard.
    """
    keys: list[bytes] = []
    images: list[tuple[int, int]] = []
    texts: list[tuple[int, int, int]] = []
    current: str | None = None
    image: tuple[int, int] | None = None
    text = (0, 0, 0)

    def finish() -> None:
        if current is not None and image is not None:
            keys.append(current.encode("utf-8", "surrogateescape"))
            images.append(image)
            texts.append(text)

    total = Path(path).stat().st_size
    damaged = refusing(f"{path}: no plain tar, or a damaged one", tarfile.TarError, OSError, EOFError)
    with damaged, tarfile.open(path, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps all it has seen
            if not member.isreg():
                continue
            if member.offset_data + member.size > total:
                raise UserError(f"{path}: truncated shard: {member.name} ends past the end of the file")
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            base, _, extension = name.partition(".")  # WebDataset: the key ends at the name's first dot
            if not base:
                continue
            if (key := f"{folder}/{base}" if folder else base) != current:
                finish()
                current, image, text = key, None, (0, 0, 0)
            extension = extension.rpartition(".")[2].lower()
            if image is None and f".{extension}" in EXTENSIONS:
                image = (member.offset_data, member.size)
            elif extension == "txt" or (extension == "json" and not text[1]):
                text = (member.offset_data, member.size, int(extension == "json"))
        finish()
    index = ShardIndex(
        keys=np.array(keys, dtype=bytes),
        images=np.array(images, dtype=np.int64).reshape(-1, 2),
        texts=np.array(texts, dtype=np.int64).reshape(-1, 3),
    )
    with whole_cache(cached) as file:
        np.savez(file, keys=index.keys, images=index.images, texts=index.texts)
    return index
