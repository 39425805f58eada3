"""Prompts of GenEval's six kinds, made by rule, to learn or to tune on: never a benchmark's.

    python -m evals.geneval.made_prompts --out FILE.jsonl --per-tag 200 --seed 0 --without prompts.jsonl

FILE has GenEval's metadata, one prompt a line, tag after tag. Classes are COCO's 80, colours and relations GenEval's,
unless stated; the same seed makes the same prompts. The prompts of GenEval and DPG-Bench are left out, and those of
--without. A tag that has fewer prompts than --per-tag has all there are, and a line says so: of COCO's classes alone
there is none of single_object, since GenEval asks for each of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import permutations, product
from pathlib import Path

import numpy as np

from common.benchmark_prompts import hashed, known_hashes
from common.command import described_parser, positive, whole_number
from common.errors import UserError, run_cli
from common.files import write_text
from common.text import read_lines
from evals.detectors.coco_classes import CLASSES, COLORS
from evals.geneval import phrasing
from evals.geneval.phrasing import IRREGULAR, NUMBERS
from evals.geneval.rules import RELATIONS, TAGS, Metadata
from evals.scorers.prompts import ScoredPrompt, barred_prompts

COUNTS = (2, 3, 4)  # GenEval's
PAIRS = tuple(name for name, plural in IRREGULAR.items() if name == plural and name != "sheep")
"""Words for a pair of something: nobody can tell how many `two skis` are."""


def all_prompts(
    tag: str,
    classes: Sequence[str],
    colors: Sequence[str],
    counts: Sequence[int] = COUNTS,
    relations: Sequence[str] = RELATIONS,
) -> list[Callable[[], Metadata]]:
    """Every prompt of a tag, in order, each to be made by a call: of color_attr there are half a million."""
    pairs = list(permutations(classes, 2))
    if tag == "single_object":
        return [partial(phrasing.single_object, one) for one in classes]
    if tag == "two_object":
        return [partial(phrasing.two_object, *pair) for pair in pairs]
    if tag == "counting":
        countable = [name for name in classes if name not in PAIRS]
        return [partial(phrasing.counting, *one) for one in product(countable, counts)]
    if tag == "colors":
        return [partial(phrasing.colors, *one) for one in product(classes, colors)]
    if tag == "position":
        return [
            partial(phrasing.position, one, relation, other)
            for relation, (one, other) in product(relations, pairs)
        ]
    return [
        partial(phrasing.color_attr, (first, of_first), (second, of_second))
        for (first, second), (of_first, of_second) in product(pairs, permutations(colors, 2))
    ]


def made_prompts(
    per_tag: int,
    seed: int,
    *,
    classes: Sequence[str] = CLASSES,
    colors: Sequence[str] = COLORS,
    counts: Sequence[int] = COUNTS,
    relations: Sequence[str] = RELATIONS,
    without: Collection[str] = (),
) -> list[ScoredPrompt]:
    """As many prompts of each tag as are asked for, or as there are, in the order of `TAGS`; none of a benchmark.

    Args:
        without: hashes (`benchmark_prompts.hashed`) of further prompts that are left out.
    """
    barred = {*known_hashes(), *without}
    chosen: list[ScoredPrompt] = []
    for place, tag in enumerate(TAGS):
        pool = all_prompts(tag, classes, colors, counts, relations)
        order = iter(np.random.default_rng([seed, place]).permutation(len(pool)))
        found: list[ScoredPrompt] = []
        while len(found) < per_tag and (index := next(order, None)) is not None:
            metadata = pool[index]()
            if hashed(text := str(metadata["prompt"])) not in barred:
                found.append(ScoredPrompt(text, metadata, f"{tag} made by rule"))
        chosen += found
    return chosen


def parser() -> argparse.ArgumentParser:
    options = described_parser(__doc__)
    options.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jsonl to write")
    options.add_argument(
        "--per-tag", type=positive, default=200, metavar="N", help="of each tag (default: 200)"
    )
    options.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=0, help="default: 0")
    options.add_argument(
        "--without", type=Path, action="append", default=[], metavar="FILE", help="prompts to leave out, too"
    )
    options.add_argument(
        "--classes", type=Path, metavar="FILE", help="names, one a line (default: COCO's 80)"
    )
    options.add_argument("--colors", nargs="+", metavar="COLOR", help="default: GenEval's ten")
    options.add_argument(
        "--counts",
        nargs="+",
        type=whole_number(2, max(NUMBERS)),
        default=COUNTS,
        metavar="N",
        help="default: 2 3 4",
    )
    options.add_argument(
        "--relations",
        nargs="+",
        choices=RELATIONS,
        default=RELATIONS,
        metavar="R",
        help=f"of {', '.join(RELATIONS)}",
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.out.exists():
        raise UserError(f"{arguments.out}: is there already; choose another file, or remove it")
    made = made_prompts(
        arguments.per_tag,
        arguments.seed,
        classes=_names(arguments.classes) if arguments.classes else CLASSES,
        colors=list(dict.fromkeys(arguments.colors or COLORS)),
        counts=sorted(set(arguments.counts)),
        relations=[one for one in RELATIONS if one in arguments.relations],
        without=barred_prompts(arguments.without),
    )
    if not made:
        raise UserError(f"{arguments.out}: no prompts are left of these classes")
    write_text(arguments.out, "".join(json.dumps(one.metadata) + "\n" for one in made))
    each = {tag: sum(one.metadata["tag"] == tag for one in made) for tag in TAGS}
    print(
        f"{arguments.out}: {len(made)} prompts: {', '.join(f'{tag} {count}' for tag, count in each.items())}"
    )
    if few := [tag for tag, count in each.items() if count < arguments.per_tag]:
        print(f"fewer than {arguments.per_tag} are left of {', '.join(few)}")


def _names(path: Path) -> list[str]:
    """Each once.

    Raises:
        UserError: the file cannot be read, or names nothing.
    """
    names = list(dict.fromkeys(line.strip() for _, line in read_lines(path) if line.strip()))
    if not names:
        raise UserError(f"{path}: no names of classes")
    return names


if __name__ == "__main__":
    run_cli(main)
