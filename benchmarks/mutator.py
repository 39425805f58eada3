"""Small faults at places drawn by a seed: what tests are measured with when nobody chose the faults to fit them.

    python -m benchmarks.mutator --seed 13 --out benchmarks/drawn/first.json FILE=COUNT ...

writes a list of mutants, each a fault at one place: a call left out, a comparison or a boolean turned, + and
- exchanged, an argument left out or two exchanged, a constant changed, a `detach` or `no_grad` taken away, a
`requires_grad` turned, a branch always or never taken, another field of the same recipe read, the input
returned. Within a file every kind of fault is as likely as any other. Left alone are what only speaks to
people (errors, texts, bars) and what only types read.

A mutant names its place by function and text and not by line, so that a list outlives edits elsewhere in the file;
`benchmarks.drawn_mutants` plants and judges them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.fault_sites import Mutant, Site, sites
from common.command import described_parser
from common.errors import UserError, run_cli
from common.files import write_json

ROOT = Path(__file__).parents[1]


def planted(mutant: Mutant, text: str) -> str | None:
    """The file's text with the fault; None where its place is no longer there."""
    for site in sites(mutant.file, text):
        if site.mutant == mutant:
            raw = text.encode()
            return (raw[: site.start] + mutant.after.encode() + raw[site.end :]).decode()
    return None


def draw(path: str, text: str, count: int, rng: random.Random) -> list[Mutant]:
    """`count` different faults in one file: a kind first, then a place for it; never two at one place."""
    by_kind: dict[str, list[Site]] = {}
    for site in sites(path, text):
        by_kind.setdefault(site.mutant.kind, []).append(site)
    taken: list[Site] = []
    while len(taken) < count and by_kind:
        kind = rng.choice(sorted(by_kind))
        site = by_kind[kind].pop(rng.randrange(len(by_kind[kind])))
        if not by_kind[kind]:
            del by_kind[kind]
        if all((site.start, site.end) != (other.start, other.end) for other in taken):
            taken.append(site)
    return [site.mutant for site in taken]


def read_list(path: Path) -> list[Mutant]:
    """The mutants of a committed list.

    Raises:
        UserError: it is absent or no such list.
    """
    try:
        return [Mutant(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["mutants"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no list of mutants: {error}") from error


def _wanted(arguments: list[str]) -> Iterator[tuple[str, int]]:
    for argument in arguments:
        path, _, count = argument.partition("=")
        if not count.isdigit() or not (ROOT / path).is_file():
            raise UserError(f"{argument}: expected FILE=COUNT with a file of the project")
        yield path, int(count)


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument(
        "wanted", nargs="+", metavar="FILE=COUNT", help="how many faults to draw in which file"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the list to write")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    mutants: list[Mutant] = []
    for path, count in _wanted(arguments.wanted):
        mutants += draw(path, (ROOT / path).read_text(encoding="utf-8"), count, rng)
    write_json(
        arguments.out,
        {"seed": arguments.seed, "drawn": arguments.wanted, "mutants": list(map(asdict, mutants))},
    )
    print(f"{arguments.out}: {len(mutants)} mutants")


if __name__ == "__main__":
    run_cli(main)
