"""Looks through the pictures of a recipe before a tokenizer is trained on them.

    python tokenizer/preflight.py --config tokenizer/recipes/siglip2_so400m_256_stage1.yaml

A sample of every source, spread over its length, and all held-out pictures are decoded: what is damaged, how large
they are, what else lies there, how many a core decodes in a second and how many the GPUs will ask for. It needs no
weights. The list of what cannot be read goes to `preflight.txt` in the run's folder. Exits with 2 if it is more than
`data.max_corrupt_share`, or if a source cannot be opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli

if TYPE_CHECKING:
    from tokenizer.config import TokenizerConfig


def main(argv: Sequence[str] | None = None) -> None:
    from common.preflight.command import parser

    arguments = parser(__doc__).parse_intermixed_args(argv)

    from common.config import load_config
    from tokenizer.config import TokenizerConfig

    check(load_config(TokenizerConfig, arguments.config, arguments.overrides), arguments)


def check(config: TokenizerConfig, options: argparse.Namespace) -> None:
    """Print the page and write the list.

    Raises:
        UserError: a source cannot be opened, or too much of it cannot be read.
    """
    from common.data.config import SourceConfig
    from common.preflight.command import Verdict, look_at_sources
    from common.preflight.demand import Demand
    from common.preflight.looking import Wanted
    from common.training.plan import planned_ranks
    from tokenizer.efficiency import image_flops

    gpus = planned_ranks(options.gpus)
    wanted = [
        Wanted(f"data.sources.{number}", source, options.samples)
        for number, source in enumerate(config.data.sources)
    ]
    if config.evaluation.images is not None:
        held_out = SourceConfig(kind="folder", path=config.evaluation.images, unconditional=True)
        wanted.append(Wanted("evaluation.images", held_out, config.evaluation.limit, held_out=True))
    verdict = Verdict()
    speed = look_at_sources(wanted, config.data, config.seed, verdict)
    flops = image_flops(config, None)
    left_out = "perceptual networks" if config.loss.perceptual else ""
    step = flops.generator + flops.felt + flops.learning
    demand = Demand(step, options.gpu, gpus, options.mfu, left_out)
    print("\n".join(demand.lines(speed, config.data.workers)))
    verdict.close(Path(config.output) / "preflight.txt")


if __name__ == "__main__":
    run_cli(main)
