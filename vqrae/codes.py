"""Look into a folder of extracted codes, take them out as a table, or remove what no source has any more.

    vqrae codes inspect CODES                              counts, use of the codebook, perplexity
    vqrae codes inspect CODES --model MODEL --sheet PNG    and some of them, decoded
    vqrae codes export CODES OUT.parquet
    vqrae codes prune CODES                                files of pictures that were changed or are gone
    vqrae codes prune CODES --source data/cats             and all of a source

CODES is what a recipe calls data.codes; generation/extract_codes.py fills it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command import add_device, positive
from common.errors import UserError

HELP = "look into extracted codes, export them, remove what is not needed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="counts, use of the codebook, a sheet of samples")
    inspect.add_argument("codes", metavar="CODES", type=Path)
    inspect.add_argument("--model", metavar="MODEL", help="the VQRAE of these codes: a folder or hub id")
    inspect.add_argument("--sheet", metavar="PNG", type=Path, help="where a page of decoded samples goes")
    inspect.add_argument("--samples", type=positive, default=24, metavar="N", help="on it (default: 24)")
    add_device(inspect)
    export = actions.add_parser("export", help="write all of them into one parquet file")
    export.add_argument("codes", metavar="CODES", type=Path)
    export.add_argument("target", metavar="OUT.parquet", type=Path)
    prune = actions.add_parser("prune", help="remove files that no source has any more")
    prune.add_argument("codes", metavar="CODES", type=Path)
    prune.add_argument(
        "--source",
        metavar="PATH",
        action="append",
        default=[],
        help="forget this source too; may be repeated",
    )


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for what is no folder of codes, is damaged, or cannot be written."""
    {"inspect": _inspect, "export": _export, "prune": _prune}[arguments.action](arguments)


def _inspect(arguments: argparse.Namespace) -> None:
    from generation.codes.survey import sheet, survey

    if (arguments.model is None) != (arguments.sheet is None):
        raise UserError("--sheet and --model go together: pictures are decoded by the VQRAE of the codes")
    print(*survey(arguments.codes), sep="\n")
    if arguments.sheet is not None:
        from common import dist
        from common.files import write_png
        from common.models.weight_files import state_sha256
        from tokenizer.inference import load_model

        model, _ = load_model(arguments.model)
        sha256 = state_sha256(model.state_dict())
        model.to(dist.own_device(arguments.device))
        write_png(arguments.sheet, sheet(arguments.codes, model, sha256, arguments.samples))
        print(f"wrote {arguments.sheet}")


def _export(arguments: argparse.Namespace) -> None:
    from generation.codes.export import export

    print(f"wrote {export(arguments.codes, arguments.target):,} rows to {arguments.target}")


def _prune(arguments: argparse.Namespace) -> None:
    from generation.codes.prune import prune

    count, size = prune(arguments.codes, arguments.source)
    print(f"removed {count:,} files ({size / 1e6:,.1f} MB) from {arguments.codes}")
