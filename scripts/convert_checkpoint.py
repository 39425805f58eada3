"""Make a checkpoint of today's format of one that an earlier version pickled, so that a model can be made of it.

    python -m scripts.convert_checkpoint RUN
    vqrae export RUN_converted

The newest checkpoint of RUN (or that of --step) is read without executing anything that it brings, and its weights and
moving averages are written beside RUN, into RUN_converted; RUN is only read. The states of the optimizer are not
converted: no run goes on from a converted checkpoint. What `vqrae export` makes of it can be another run's init_from.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from common.command import described_parser, positive
from common.errors import UserError, run_cli


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run of an earlier version")
    parser.add_argument(
        "--step", type=positive, metavar="N", help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN_converted")
    convert(parser.parse_args())


def convert(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for a run without such checkpoints, and for one that is damaged or of another kind."""
    from common.files import write_text
    from common.training.checkpoint import Checkpoints
    from common.training.stored.pickled import Pickled
    from common.training.stored.reading import CONVERTED, steps_in

    run: Path = arguments.run
    output: Path = arguments.output or run.with_name(f"{run.resolve().name}_converted")
    if output.exists():
        raise UserError(f"{output}: is there already; choose another folder, or remove it")
    there = steps_in(run / "checkpoints")
    if not there:
        raise UserError(f"{run}: has no checkpoints")
    wanted = there[0].name if arguments.step is None else f"step_{arguments.step:08d}"
    if wanted not in {path.name for path in there}:
        raise UserError(
            f"{run / 'checkpoints' / wanted}: not there; there is {', '.join(p.name for p in there)}"
        )
    pickled = Pickled(run / "checkpoints" / wanted)
    tensors, facts = dict(pickled.tensors()), pickled.facts()  # all is read before anything is written

    output.mkdir(parents=True)
    try:
        if (run / "config.yaml").is_file():
            write_text(output / "config.yaml", (run / "config.yaml").read_text(encoding="utf-8"))
        record = {"step": pickled.step, "facts": facts, CONVERTED: str(pickled.folder)}
        path = Checkpoints(output / "checkpoints", keep=1).save(pickled.step, tensors.items(), record)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    print(f"{path}: {len(tensors)} tensors; `vqrae export {output}` makes a model of them")


if __name__ == "__main__":
    run_cli(main)
