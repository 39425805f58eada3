"""Looks through the pictures and captions of a recipe, or its codes, before a generator is trained on them.

    python generation/preflight.py --config generation/recipes/qwen3_0_6b.yaml --prompts dpg_bench.csv

A sample of every source, spread over its length, and all held-out pictures are decoded: what is damaged, how large
they are, which have captions, how many a core decodes in a second and how many the GPUs will ask for. Where the recipe
names extracted codes, they are held against it, and a sample of them is read in the place of pictures. It needs no
weights but the tokenizer's, to which codes belong.

Captions that are a prompt of GenEval or DPG-Bench are counted; with the benchmarks' files (`--prompts`, more than once)
also those that hold one. The list of what cannot be read goes to `preflight.txt` in the run's folder. Exits with 2 if
it is more than `data.max_corrupt_share`, if a source cannot be opened, or if codes are not the recipe's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import run_cli

if TYPE_CHECKING:
    from common.preflight.command import Verdict
    from common.preflight.demand import Demand
    from common.preflight.leaks import LeakSearch
    from generation.config import GenerationConfig
    from generation.vocabulary import VisualVocabulary


def main(argv: Sequence[str] | None = None) -> None:
    from common.preflight.command import parser

    options = parser(__doc__)
    options.add_argument(
        "--prompts",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a benchmark's prompts: GenEval's .jsonl, DPG-Bench's .csv or folder of .txt, or one a line",
    )
    arguments = options.parse_intermixed_args(argv)

    from common.config import load_config
    from generation.config import GenerationConfig

    check(load_config(GenerationConfig, arguments.config, arguments.overrides), arguments)


def check(config: GenerationConfig, options: argparse.Namespace) -> None:
    """Print the page and write the list.

    Raises:
        UserError: a source or a file of prompts cannot be opened, too much cannot be read, or codes are of another
            recipe.
    """
    from common.preflight.command import Verdict, look_at_sources
    from common.preflight.leaks import LeakSearch, read_prompts
    from common.preflight.looking import Wanted
    from common.training.plan import planned_ranks

    gpus = planned_ranks(options.gpus)
    leaks = LeakSearch({path.name: read_prompts(path) for path in options.prompts})
    verdict = Verdict()
    wanted = []
    if config.data.codes is None:
        wanted += [
            Wanted(f"data.sources.{number}", source, options.samples, captions=True)
            for number, source in enumerate(config.data.sources)
        ]
    if config.evaluation.source is not None:
        held_out = config.evaluation.source
        wanted.append(
            Wanted("evaluation.source", held_out, config.evaluation.limit, held_out=True, captions=True)
        )
    speed = look_at_sources(wanted, config.data, config.seed, verdict, leaks.add)
    if config.data.codes is not None:
        look_at_codes(config, options.samples, verdict, leaks)
    else:
        print("\n".join(demand(config, options, gpus).lines(speed, config.data.workers)))
    print("\n".join(leaks.lines()))
    verdict.close(Path(config.output) / "preflight.txt")


def look_at_codes(config: GenerationConfig, samples: int | None, verdict: Verdict, leaks: LeakSearch) -> None:
    """Hold the codes of each source against the recipe, and read a sample of them."""
    from common.errors import UserError
    from common.models.weight_files import state_sha256
    from common.preflight.looking import spread
    from generation.assemble import assemble_vqrae
    from generation.codes.library import CodeSource
    from generation.dataset import check_codes

    assert config.data.codes is not None
    vocabulary = stated_vocabulary(config, state_sha256(assemble_vqrae(config.model).state_dict()))
    for number, stated in enumerate(config.data.sources):
        name, told, bad, captions = f"data.sources.{number}", "", 0, 0
        try:
            codes = CodeSource.of(Path(config.data.codes), stated)
            check_codes(codes, config.data, vocabulary)
        except UserError as error:
            verdict.refused.append(f"{name}: {error}")
            print(f"{name:<16} {error}", flush=True)
            continue
        places = list(spread(len(codes), samples, config.seed))
        for place in places:
            try:
                sample = codes.read(place)
            except UserError as error:
                bad += 1
                verdict.listed.append(str(error))
                continue
            captions += sample.caption is not None
            if sample.caption is not None:
                leaks.add(sample.caption, f"{stated.path}/{sample.key}")
        if bad:
            told = f", {bad:,} cannot be read"
            verdict.refused.append(f"{name}: {bad} of {len(places)} codes looked at cannot be read")
        print(
            f"{name:<16} {stated.path}\n  codes          {len(codes):,} pictures, {len(places):,} looked at{told}; "
            f"{captions / max(1, len(places) - bad):.1%} have a caption",
            flush=True,
        )


def stated_vocabulary(config: GenerationConfig, vqrae_sha256: str = "") -> VisualVocabulary:
    """The recipe's, as its numbers have it."""
    from generation.vocabulary import VisualVocabulary

    return VisualVocabulary(
        offset=config.model.language_model.text_vocabulary,
        codebook_size=config.model.tokenizer.codebook_size,
        grid=config.grid,
        image_size=config.data.image_size,
        max_length=config.data.max_length,
        vqrae_sha256=vqrae_sha256,
    )


def demand(config: GenerationConfig, options: argparse.Namespace, gpus: int) -> Demand:
    """What GPUs ask for, by a sequence whose caption fills half of its room."""
    import torch

    from common.preflight.demand import Demand
    from generation.assemble import generator_on_meta
    from generation.efficiency import GenerationEfficiency

    model, _ = generator_on_meta(config.model)
    vocabulary = stated_vocabulary(config)
    efficiency = GenerationEfficiency(model, vocabulary, config.loss_vocabulary, torch.device("cpu"))
    counted = efficiency.count(
        {
            "input_ids": torch.empty(0),
            "predictors": torch.empty(0),
            "targets": torch.empty(vocabulary.image_tokens, device="meta"),
            "prompt_lengths": [vocabulary.text_room // 2 + 1],
            "skipped": [],
            "samples": 1,
            "keys": [],
        }
    )
    return Demand(counted["flops"], options.gpu, gpus, options.mfu, "encoding them")


if __name__ == "__main__":
    run_cli(main)
