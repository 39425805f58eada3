"""The part of `vqrae generate` that chooses: --best-of, --judge, and what a judge must know of a prompt."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import positive
from common.errors import UserError
from evals.detectors.opening import CLIP

if TYPE_CHECKING:
    from evals.scorers.prompts import ScoredPrompt
    from evals.scorers.scorer import Scorer
    from generation.drawing import Drawing

JUDGES = "rules:world, rules:mask2former, rules:PATH, clip, clip:MODEL, questions:MODEL, legibility or legibility:TEXT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is given beside --best-of says nothing without it."""
    options = parser.add_argument_group("the best of several")
    options.add_argument(
        "--best-of",
        type=positive,
        metavar="N",
        help="draw N pictures of each prompt, and keep the -n best of them",
    )
    options.add_argument("--judge", metavar="NAME", help=f"who tells which are the best: {JUDGES}")
    options.add_argument("--keep-all", action="store_true", help="keep the other pictures too, in DIR/others")
    options.add_argument(
        "--phrasing", metavar="FILE", help="questions: a YAML file that words them otherwise"
    )
    options.add_argument(
        "--clip", default=CLIP, metavar="MODEL", help="rules: names colours (default: %(default)s)"
    )


def check(arguments: argparse.Namespace) -> None:
    """Raises `UserError` where what is given does not go together."""
    if arguments.best_of is None:
        for name in ("judge", "keep_all", "phrasing"):
            if getattr(arguments, name):
                raise UserError(f"--{name.replace('_', '-')}: says nothing without --best-of")
    elif arguments.judge is None:
        raise UserError(f"--best-of: --judge must say who tells which are the best: {JUDGES}")
    elif arguments.n > arguments.best_of:
        raise UserError(f"-n: expected 1 to {arguments.best_of} (--best-of), found {arguments.n}")


def run(arguments: argparse.Namespace, texts: Sequence[str], drawing: Drawing) -> None:
    """Draw, judge and choose; raises `UserError` before anything is drawn for what cannot be judged."""
    from common import dist
    from common.outputs import claim_folder
    from evals.scorers.best_folder import OTHERS, SCORES, Choice, choose
    from evals.scorers.prompts import ScoredPrompt, prompts_of
    from generation.picture_folder import load

    folder: Path = arguments.out
    prompts = [ScoredPrompt(text, {"prompt": text}) for text in texts]
    if arguments.prompts is not None:
        prompts = prompts_of(arguments.prompts)
    device = dist.start_process(drawing.device)
    prompts, scorer = open_judge(arguments, prompts, device)
    claim_folder(folder, (OTHERS, SCORES), arguments.overwrite)
    generator = load(drawing, arguments.model)
    choice = Choice(
        folder=folder,
        of=arguments.best_of,
        keep=arguments.n,
        keep_all=arguments.keep_all,
        overwrite=arguments.overwrite,
    )
    chosen = choose(generator, prompts, scorer, choice, drawing, arguments.model)
    if dist.is_main():
        print(f"{folder}: {chosen}; {folder / SCORES} has all scores, {folder / 'sheet.png'} shows the first")


def open_judge(
    arguments: argparse.Namespace, prompts: Sequence[ScoredPrompt], device: Any
) -> tuple[list[ScoredPrompt], Scorer]:
    """The scorer that --judge names, and the prompts with what it must know of them: rules that follow from the text of
    a prompt without any, and what --judge legibility:TEXT is to read.

    Raises:
        UserError: it is absent, or cannot judge one of the prompts.
    """
    from evals.geneval.parsing import parse_prompt
    from evals.scorers.naming import scorer_named
    from evals.scorers.opening import open_rules_detector, open_scorer
    from evals.scorers.rules import RulesScorer

    kind, _, rest = arguments.judge.partition(":")
    if kind == "legibility" and rest:
        prompts = [replace(one, metadata={"text": rest, **one.metadata}) for one in prompts]
        config = scorer_named(kind, "--judge")
    else:
        # Graded: the one that comes nearest, where none is right.
        stated = {"rules": {"graded": True}, "questions": {"phrasing": arguments.phrasing}}
        config = scorer_named(arguments.judge, "--judge", arguments.clip, **stated.get(kind, {}))
    if config.kind != "rules":
        return list(prompts), open_scorer(config, prompts, "--judge", device)
    detector = open_rules_detector(config, "--judge", device)
    known = [
        one if {"include", "exclude"} & one.metadata.keys()
        else replace(one, metadata=parse_prompt(one.text, detector.classes, detector.colors))
        for one in prompts
    ]  # fmt: skip
    return known, RulesScorer(detector, known, graded=True)
