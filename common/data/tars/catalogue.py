"""What a set of shards holds: the summaries of all, made in parallel where there are none.

Processes that open the same set at the same time (the ranks of a run) share the work without talking to each other:
each begins at a place of its own, goes round, and passes over what has been indexed meanwhile.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from common import dist
from common.data.blobs import ask_stats, forget_open_files, stat
from common.data.tars.shard_index import Summary
from common.data.tars.store import find_summaries, folder_of, index_shard, keep_summaries
from common.data.workers import in_workers
from common.errors import UserError

log = logging.getLogger(__name__)
MOST_WORKERS = 16
FEW = 4  # shards that are not worth starting processes for
NAMED = 20  # damaged shards that a message names


@dataclass(frozen=True)
class Catalogue:
    """Sound shards in the order of their paths, the summary of each, and damaged ones: path -> what is wrong."""

    paths: list[str]
    summaries: list[Summary]
    damaged: dict[str, str]


def catalogued(paths: Sequence[str], workers: int | None = None) -> Catalogue:
    """Summaries of all shards; those not seen before, or changed, are scanned.

    Args:
        paths: without repeats.
        workers: processes that scan; None: as this process may take.
    """
    forget_open_files()  # a shard may have been written anew since this process last read it
    ask_stats(paths)
    known = {folder: find_summaries(folder) for folder in {folder_of(path) for path in paths}}
    summaries: dict[str, Summary] = {}
    damaged: dict[str, str] = {}
    missing = []
    for path in paths:
        summary = known[folder_of(path)].get(_name(path))
        try:
            if summary is not None and summary.is_of(stat(path)):
                summaries[path] = summary
            else:
                missing.append(path)
        except UserError as error:
            damaged[path] = str(error)
    fresh = _index_all(missing, (), workers, damaged)
    # A tar too small to show which words are endings learns it from the others of its set.
    endings = {ending for each in (*summaries.values(), *fresh.values()) for ending in each.compound}
    again = [
        path for path, each in {**summaries, **fresh}.items() if endings and endings & set(each.possible)
    ]
    fresh |= _index_all(again, sorted(endings), workers, damaged)
    for folder, found in known.items():
        if new := {_name(path): each for path, each in fresh.items() if folder_of(path) == folder}:
            found.update(new)
            keep_summaries(folder, new)
    summaries |= fresh
    sound = [path for path in paths if path in summaries and path not in damaged]
    return Catalogue(
        sound, [summaries[path] for path in sound], {path: damaged[path] for path in sorted(damaged)}
    )


def refuse_damaged(catalogue: Catalogue, name: str, allowed: float) -> None:
    """Warns of the damaged shards, with all their names.

    Raises:
        UserError: they are more than the share `allowed`.
    """
    damaged = catalogue.damaged
    if not damaged:
        return
    total = len(damaged) + len(catalogue.paths)
    if len(damaged) > allowed * total:
        named = "; ".join(list(damaged.values())[:NAMED])
        more = f"; and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        raise UserError(
            f"{name}: {len(damaged)} of {total} shards cannot be read, more than max_damaged_shards allows "
            f"({allowed}): {named}{more}"
        )
    for said in damaged.values():
        log.warning("left out: %s", said)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _index_all(
    paths: Sequence[str], known: Sequence[str], workers: int | None, damaged: dict[str, str]
) -> dict[str, Summary]:
    """Summaries of the shards that could be scanned; what is wrong with the others goes into `damaged`."""
    first = len(paths) * dist.rank() // dist.world()
    order = [*paths[first:], *paths[:first]]
    found: dict[str, Summary] = {}
    quiet = not dist.is_main() or len(paths) <= FEW
    with tqdm(total=len(paths), unit="shard", desc="index", disable=quiet) as bar:
        for path, result in zip(order, _scanned(order, known, workers), strict=True):
            if isinstance(result, Summary):
                found[path] = result
            else:
                damaged[path] = result
            bar.update()
    return found


def _scanned(paths: Sequence[str], known: Sequence[str], workers: int | None) -> Iterator[Summary | str]:
    def scan(places: list[int]) -> Summary | str:
        try:
            return index_shard(paths[places[0]], known)
        except UserError as error:
            return str(error)

    if workers is None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or dist.world())
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) // here)
    if len(paths) <= FEW or workers < 2 or multiprocessing.current_process().daemon:
        workers = 0  # a worker of a loader may start no process of its own
    return in_workers(scan, lambda: ([place] for place in range(len(paths))), workers, prefetch=2)
