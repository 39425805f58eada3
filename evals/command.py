"""The arguments that all evaluations share: MODEL, --output, --limit. Light on purpose, for a fast `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from common.command import described_parser, positive
from evals.targets import rows

Sample = TypeVar("Sample")


def build_parser(
    prog: str, description: str | None, model: str, model_is_optional: bool = False
) -> argparse.ArgumentParser:
    """A parser with the shared arguments, to which an evaluation adds its own.

    Args:
        description: the module's docstring, printed as it stands.
        model: what MODEL may be.
        model_is_optional: its absence is not the parser's to refuse, but preflight's, beside what else is missing.
    """
    parser = described_parser(description, prog=prog)
    parser.add_argument("model", metavar="MODEL", help=model, nargs="?" if model_is_optional else None)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="score only N samples; marked partial, not comparable"
    )
    return parser


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
