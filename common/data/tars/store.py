"""Where the indices of shards are kept: beside the data, in `.vqrae-index/`, or else in the cache.

A folder of shards has an index file for each (`NAME.safetensors`) and one small `counts.json` with the summaries of
all, which is what a start reads. An entry counts as long as the shard has the size and version that it names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from common.data.blobs import Stat, is_url, stat
from common.data.tars.counts import Counts
from common.data.tars.shard_index import (
    ShardIndex,
    Summary,
    read_index,
    read_summary,
    scan,
    write_index,
)
from common.errors import FailedRead, UserError
from common.files import cache_file, whole_cache, whole_file, write_text

FOLDER = ".vqrae-index"
COUNTS = "counts.json"
LONGEST_NAME = 200  # characters of a file name, with room for what is added


def folder_of(shard: str) -> str:
    """The folder, or the URL, that a shard lies in."""
    return shard.rpartition("/")[0] or ("/" if shard.startswith("/") else ".")


def places_of(folder: str) -> list[Path]:
    """Where indices of the shards in `folder` may lie, the preferred place first."""
    if is_url(folder):
        return [cache_file("shards", folder, suffix="")]
    return [Path(folder, FOLDER), cache_file("shards", str(Path(folder).absolute()), suffix="")]


def place_of(folder: str) -> Path | None:
    """Where the index of the shards in `folder` lies; None where there is none."""
    return next((place for place in places_of(folder) if (place / COUNTS).is_file()), None)


def find_counts(folder: str) -> Counts:
    """What the folder's count file knows; whether it still holds is not asked."""
    for place in places_of(folder):
        with suppress(OSError, ValueError):
            return Counts.from_json(json.loads((place / COUNTS).read_bytes()))
    return Counts.of({})


def keep_counts(folder: str, summaries: Mapping[str, Summary]) -> None:
    """Add to the folder's count file.

    Raises:
        UserError: neither beside the data nor in the cache can be written.
    """
    # What another process wrote meanwhile is kept, but for the moment in between: then it is found in the index files.
    told = json.dumps(Counts.of({**find_counts(folder).rows(), **summaries}).to_json())
    beside = _writable(folder)
    if beside is not None:
        with suppress(UserError):
            return write_text(beside / COUNTS, told)
    with whole_cache(places_of(folder)[-1] / COUNTS) as file:
        file.write(told.encode())
    return None


def index_shard(path: str, known: Iterable[str] = ()) -> Summary:
    """The summary of a shard, which is scanned unless its index is there and knows the same endings.

    Raises:
        UserError: it cannot be read or is damaged, or its index cannot be written.
    """
    found, folder, name = stat(path), folder_of(path), _index_name(path)
    for place in places_of(folder):
        summary = read_summary(str(place / name))
        if summary is not None and summary.is_of(found) and not set(known) & set(summary.possible):
            return summary
    index, summary = scan(path, found, frozenset(known))
    beside = _writable(folder)
    if beside is not None:
        with suppress(UserError), whole_file(beside / name) as partial, partial.open("wb") as file:
            write_index(file, index, summary)
            return summary
    with whole_cache(places_of(folder)[-1] / name) as file:
        write_index(file, index, summary)
    return summary


def load_index(path: str, size: int, version: str) -> ShardIndex:
    """The index of a shard as it was when its source was opened.

    Raises:
        FailedRead: the shard is another one now, or cannot be read. UserError: as `index_shard`.
    """
    try:
        now = stat(path)
    except UserError as error:
        raise FailedRead(str(error)) from error
    if now != Stat(size, version):
        raise FailedRead(f"{path}: changed since it was indexed; start anew to read what is there now")
    name = _index_name(path)
    for _ in range(2):
        for place in places_of(folder_of(path)):
            summary = read_summary(str(place / name))
            if summary is not None and summary.is_of(now):
                return read_index(str(place / name))
        index_shard(path)  # the cache was emptied meanwhile
    raise FailedRead(f"{path}: its index is not there, though it was written")


def _index_name(path: str) -> str:
    name = path.rpartition("/")[2]
    if len(os.fsencode(name)) > LONGEST_NAME:
        return cache_file("", name, suffix=".safetensors").name
    return f"{name}.safetensors"


def _writable(folder: str) -> Path | None:
    """Where to write beside the data; None where that is no folder of this machine, or a closed one."""
    if is_url(folder) or not os.access(folder, os.W_OK | os.X_OK):
        return None
    return Path(folder, FOLDER)
