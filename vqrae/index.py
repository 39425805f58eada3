"""Index WebDataset shards once, before anything is trained on them, and tell what they hold.

    vqrae index data/web
    vqrae index "data/web/{0000..0127}.tar" --workers 32

DATA is what a recipe's source of kind `shards` names: a folder, a pattern, or a brace range, local or a URL. The index
lies beside the shards, in `.vqrae-index/`, or where that cannot be written in the data cache; training looks in both,
and makes it the same way where there is none. Shards that are there already and have not changed are passed over, so an
index that was interrupted goes on where it was. Damaged shards are told together; more than --max-damaged-shards of
them are exit code 2, and the index of the sound ones is kept.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from common.command import positive

if TYPE_CHECKING:
    from common.data.tars.catalogue import Catalogue

HELP = "index shards, and tell what they hold"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="a folder, a pattern or a brace range of .tar files")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: one for each core, at most 16)"
    )
    parser.add_argument(
        "--max-damaged-shards",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="of all shards, may be damaged (default: 0.01)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for shards that are not there, too many damaged ones, or an index that cannot be written."""
    from common.data.shards import shard_paths
    from common.data.tars.catalogue import catalogued, refuse_damaged

    catalogue = catalogued(shard_paths(arguments.data), arguments.workers)
    for line in lines_of(catalogue):
        print(line)
    refuse_damaged(catalogue.damaged, catalogue.total, arguments.data, arguments.max_damaged_shards)


def lines_of(catalogue: Catalogue) -> list[str]:
    """What there is in the sound shards, a line for each kind of thing."""
    from common.data.tars.selection import listing
    from common.data.tars.store import folder_of, place_of

    counts = catalogue.counts
    lines = [
        f"shards: {len(counts)}, and {len(catalogue.damaged)} damaged",
        f"samples: {counts.total('samples')}",
        f"pictures: {listing(counts.totals('pictures'), '.')}",
        f"other members: {listing(counts.totals('others'), '.')}",
        f"keys of .json: {listing(counts.totals('fields'))}",
        f"captions in the standard places: {counts.total('captions')}",
    ]
    first: dict[str, str] = {}
    for path, of_shard in zip(catalogue.paths, counts.rest["first_left_out"], strict=True):
        for reason, name in of_shard.items():
            first.setdefault(reason, f"{path}: {name}")
    for reason, count in counts.totals("left_out").items():
        lines.append(f"left out: {count} {reason}, the first: {first[reason]}")
    places = {
        str(place) for folder in {folder_of(path) for path in catalogue.paths} if (place := place_of(folder))
    }
    return [*lines, *(f"index: {place}" for place in sorted(places))]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, found {text}")
    return share
