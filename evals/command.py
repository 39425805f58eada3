"""The arguments that all evaluations share: MODEL, --output, --limit. Light on purpose, for a fast `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from common.command import described_parser, positive
from common.outputs import add_overwrite, claim_folder
from evals.targets import rows

Sample = TypeVar("Sample")


def build_parser(
    prog: str,
    description: str | None,
    model: str,
    model_is_optional: bool = False,
    several_models: bool = False,
    writes: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """A parser with the shared arguments, to which an evaluation adds its own.

    Args:
        description: the module's docstring, printed as it stands.
        model: what MODEL may be.
        writes: names of what it writes into DIR, beside results.json.
        model_is_optional: its absence is not the parser's to refuse, but preflight's, beside what else is missing.
        several_models: MODEL is one or more, a list.
    """
    parser = described_parser(description, prog=prog)
    nargs = "+" if several_models else "?" if model_is_optional else None
    parser.add_argument("model", metavar="MODEL", help=model, nargs=nargs)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="score only N samples; marked partial, not comparable"
    )
    add_overwrite(parser)
    parser.set_defaults(writes=("results.json", *writes))
    return parser


def claim_output(arguments: argparse.Namespace) -> None:
    """Once nothing is missing, and before anything is written.

    Raises:
        UserError: DIR holds somebody else's files under the names of what is to be written.
    """
    given = "pictures" if getattr(arguments, "pictures", None) else None  # which are looked at, and not drawn
    claim_folder(arguments.output, [name for name in arguments.writes if name != given], arguments.overwrite)


def add_paper_row(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """--paper-row, where the paper's table has several rows."""
    parser.add_argument(
        "--paper-row", choices=rows(benchmark), metavar="NAME", help="whose figures to show beside ours"
    )


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """`limit` samples at even distances, for sets that are sorted by kind: a small part then has every kind too."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[i * len(samples) // limit] for i in range(limit)]
