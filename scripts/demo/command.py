"""What the demo's modules share on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command import described_parser


def demo_parser(description: str | None) -> argparse.ArgumentParser:
    """For what looks at a whole demo: --demo DIR."""
    parser = described_parser(description)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    return parser


def world_parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """For what learns from a world: --world DIR, --out DIR, of which `out` says what becomes of it."""
    parser = described_parser(description)
    parser.add_argument("--world", type=Path, required=True, help="folder written by make_world.py")
    parser.add_argument("--out", type=Path, required=True, help=out)
    return parser
