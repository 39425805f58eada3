"""What a set of shards holds: the summaries of all, made in parallel where there are none.

Processes that open the same set at the same time (the ranks of a run) share the work without talking to each other:
each begins at a place of its own, goes round, and passes over what has been indexed meanwhile.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from tqdm import tqdm

from common import dist
from common.data.blobs import ask_stats, forget_open_files, stat
from common.data.tars.counts import Counts
from common.data.tars.shard_index import Summary
from common.data.tars.store import find_counts, folder_of, index_shard, keep_counts
from common.data.workers import in_workers
from common.errors import UserError

log = logging.getLogger(__name__)
MOST_WORKERS = 16
FEW = 4  # shards that are not worth starting processes for
NAMED = 20  # damaged shards that a message names


@dataclass(frozen=True)
class Catalogue:
    """Sound shards in the order of their paths, what each holds, and damaged ones: path -> what is wrong."""

    paths: list[str]
    counts: Counts
    damaged: dict[str, str]

    @property
    def total(self) -> int:
        return len(self.paths) + len(self.damaged)

    @property
    def summaries(self) -> list[Summary]:
        """Of each shard; for what goes through all of them anyway."""
        return list(self.counts.rows().values())


def catalogued(paths: Sequence[str], workers: int | None = None) -> Catalogue:
    """What each shard holds; those not seen before, or changed, are scanned.

    Args:
        paths: without repeats.
        workers: processes that scan; None: as this process may take.
    """
    forget_open_files()  # a shard may have been written anew since this process last read it
    ask_stats(paths)
    damaged: dict[str, str] = {}
    known, missing = _known(paths, damaged)
    fresh = _index_all(missing, (), workers, damaged)
    # A tar too small to show which words are endings learns it from the others of its set.
    endings = set(chain.from_iterable(known.rest["compound"]))
    endings.update(*(each.compound for each in fresh.values()))
    if endings:
        told = zip(known.names, known.rest["possible"], strict=True)
        again = [path for path, possible in told if endings.intersection(possible)]
        again += [path for path, each in fresh.items() if endings.intersection(each.possible)]
        fresh |= _index_all(again, sorted(endings), workers, damaged)
    by_folder: dict[str, dict[str, Summary]] = defaultdict(dict)
    for path, each in fresh.items():
        by_folder[folder_of(path)][_name(path)] = each
    for folder, summaries in by_folder.items():
        keep_counts(folder, summaries)
    return _in_order(paths, known, fresh, dict(sorted(damaged.items())))


def _known(paths: Sequence[str], damaged: dict[str, str]) -> tuple[Counts, list[str]]:
    """What the count files say of shards that have not changed, by path, and the other shards."""
    folders = [folder_of(path) for path in paths]
    found = {folder: find_counts(folder) for folder in dict.fromkeys(folders)}
    rows = {folder: {name: row for row, name in enumerate(each.names)} for folder, each in found.items()}
    facts = {folder: (each.numbers["size"].tolist(), each.rest["version"]) for folder, each in found.items()}
    taken: dict[str, list[int]] = {folder: [] for folder in found}
    named: dict[str, list[str]] = {folder: [] for folder in found}
    missing = []
    for path, folder in zip(paths, folders, strict=True):
        try:
            now = stat(path)
        except UserError as error:
            damaged[path] = str(error)
            continue
        row = rows[folder].get(_name(path))
        if row is not None and now == (facts[folder][0][row], facts[folder][1][row]):
            taken[folder].append(row)
            named[folder].append(path)
        else:
            missing.append(path)
    known = Counts.of({})
    for folder, counts in found.items():
        chosen = counts.take(np.array(taken[folder], dtype=np.int64))
        known = known + replace(chosen, names=named[folder])
    return known, missing


def _in_order(
    paths: Sequence[str], known: Counts, fresh: dict[str, Summary], damaged: dict[str, str]
) -> Catalogue:
    if fresh:
        old = np.array([place for place, path in enumerate(known.names) if path not in fresh], dtype=np.int64)
        known = known.take(old) + Counts.of(fresh)
    place_of = {path: place for place, path in enumerate(known.names)}
    sound = [path for path in paths if path in place_of and path not in damaged]
    places = [place_of[path] for path in sound]
    if places != list(range(len(known))):
        known = known.take(np.array(places, dtype=np.int64))
    return Catalogue(sound, known, damaged)


def refuse_damaged(damaged: Mapping[str, str], total: int, name: str, allowed: float) -> None:
    """Warns of damaged shards, with all their names.

    Args:
        damaged: path -> what is wrong. total: shards of the set `name`, these with them.

    Raises:
        UserError: they are more than the share `allowed`.
    """
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
