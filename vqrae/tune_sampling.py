"""Find the guidance and the temperature that a generator draws best with.

    vqrae tune-sampling MODEL --prompts FILE --scorer clip --clip CLIP --out DIR
    vqrae tune-sampling MODEL --prompts FILE.jsonl --scorer world --out DIR --write

Every combination of --cfg-scale and --temperature draws the same few prompts; the best third goes on with more of them,
and the best third of these with all. The settings of MODEL's folder take part to the end. Scorers:

    clip             similarity of picture and prompt, by a CLIP (--clip)
    world, ...       GenEval's rules on what a detector finds, any that run_geneval.sh takes; FILE.jsonl then has
                     GenEval's metadata
    questions:MODEL  what a LLaVA-style folder answers about the pictures: see docs/generation.md
    legibility       how much of a prompt's `text` can be read in the picture; FILE.jsonl then has it

Prompts of GenEval and DPG-Bench are refused, and those of --held-out: their figures would tell nothing afterwards. DIR
keeps the scores, so that a call that was stopped goes on where it was, and receives tuning.json, all trials with their
scores. --write puts the best settings into MODEL, if they are better than its own by more than the difference's own
standard error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import add_batch_size, add_device, positive
from common.errors import UserError
from common.models.run_folder import model_of
from common.outputs import add_overwrite, claim_folder
from evals.detectors.opening import CLIP
from generation.drawing import DTYPES, check_seed, option_error

if TYPE_CHECKING:
    from evals.scorers.prompts import ScoredPrompt
    from evals.scorers.scorer import Scorer
    from evals.tuning.search import Trial
    from generation.generator import Generator

HELP = "find the guidance and the temperature that a generator draws best with"
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5)
TEMPERATURES = (0.8, 0.9, 1.0, 1.1)
BAR = 40  # letters of the longest bar in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="generator's folder")
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line, or .jsonl"
    )
    parser.add_argument(
        "--scorer",
        required=True,
        metavar="NAME",
        help="clip, a detector as of run_geneval.sh, questions:MODEL, legibility",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for scores and results"
    )
    parser.add_argument(
        "--clip", default=CLIP, metavar="MODEL", help="folder or hub id (default: %(default)s)"
    )
    parser.add_argument(
        "--held-out", type=Path, action="append", default=[], metavar="FILE", help="further prompts to refuse"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="take N prompts of FILE, at even distances"
    )
    parser.add_argument(
        "-n", type=positive, default=4, metavar="N", help="pictures of each prompt (default: 4)"
    )
    parser.add_argument(
        "--cfg-scale", type=float, nargs="+", default=GUIDANCE, metavar="S", help="guidance strengths to try"
    )
    parser.add_argument(
        "--temperature", type=float, nargs="+", default=TEMPERATURES, metavar="T", help="temperatures to try"
    )
    parser.add_argument("--write", action="store_true", help="put the best settings into MODEL")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    add_batch_size(parser, default=64)
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, as saved on a GPU")
    add_overwrite(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Raises `UserError` for whatever cannot be used, before anything is drawn."""
    from evals.scorers.prompts import read_scored_prompts

    if not Path(arguments.model).is_dir():
        raise UserError(f"{arguments.model}: no such folder")
    prompts = read_scored_prompts(arguments.prompts, arguments.held_out, arguments.limit)
    tried = _tried(arguments)
    claim_folder(arguments.out, ("tuning.json", "identity.json", "scores"), arguments.overwrite)

    import torch
    from tqdm import tqdm

    from common import dist
    from evals.tuning.kept_scores import KeptScores
    from evals.tuning.search import budget, search
    from generation.generator import Generator

    device = dist.start_process(arguments.device)
    if dist.world() > 1:
        raise UserError("tune-sampling: runs in one process")
    scorer = _scorer(arguments, prompts, device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    generator = Generator.from_pretrained(arguments.model, device, dtype)
    for prompt in prompts:
        generator.prompt_ids(prompt.text)
    now = generator.sampling
    combined = dict.fromkeys(replace(now, cfg_scale=scale, temperature=t) for scale, t in tried)
    candidates = [one for one in combined if one != now]
    pictures = budget(len(candidates), len(prompts), arguments.n)
    print(
        f"{len(candidates)} settings and MODEL's own ({now}) on {len(prompts)} prompts, {arguments.n} pictures of "
        f"each: at most {pictures} pictures",
        flush=True,
    )
    with tqdm(total=pictures, unit="picture", desc="tune-sampling") as bar:
        scores = KeptScores(
            arguments.out,
            generator,
            scorer,
            prompts,
            arguments.n,
            arguments.seed,
            arguments.batch_size,
            bar.update,
        )
        trials = search(now, candidates, len(prompts), scores.measure)
    _report(arguments, generator, trials, scores.identity)


def _tried(arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """Every combination; `UserError` if one is out of range."""
    from generation.sampling import Sampling

    try:
        check_seed(arguments.seed)
        for scale in arguments.cfg_scale:
            Sampling(cfg_scale=scale)
        for temperature in arguments.temperature:
            Sampling(temperature=temperature)
    except ValueError as error:
        raise option_error(error) from error
    return [(scale, temperature) for scale in arguments.cfg_scale for temperature in arguments.temperature]


def _scorer(arguments: argparse.Namespace, prompts: Sequence[ScoredPrompt], device: Any) -> Scorer:
    from evals.scorers.config import OF_KIND
    from evals.scorers.naming import scorer_named
    from evals.scorers.opening import open_scorer

    name = arguments.scorer
    if name.partition(":")[0] not in OF_KIND:
        name = f"rules:{name}"  # a detector
    elif name == "clip":
        name = f"clip:{arguments.clip}"
    config = scorer_named(name, "--scorer", arguments.clip)
    return open_scorer(config, prompts, "--scorer", device)


def _report(
    arguments: argparse.Namespace, generator: Generator, trials: Sequence[Trial], identity: dict[str, Any]
) -> None:
    """Table, tuning.json, and what follows from them."""
    from common.files import write_json
    from evals.tuning.search import difference
    from generation.sampling_file import as_json

    own, best = next(trial for trial in trials if trial.sampling == generator.sampling), trials[0]
    gain, error = difference(best, own)
    _print_table(trials, own)
    found = {
        "best": as_json(best.sampling),
        "score": best.mean,
        "gain": gain,
        "standard_error": error,
        **identity,
        "trials": [
            {"sampling": as_json(one.sampling), "score": one.mean, "prompts": len(one.scores)}
            for one in trials
        ],
    }
    write_json(arguments.out / "tuning.json", found)
    if best is own or gain <= error:
        print(f"nothing better than MODEL's own settings by more than chance ({gain:+.3f} +- {error:.3f})")
        return
    print(f"better than MODEL's own by {gain:.3f} +- {error:.3f}: {best.sampling}")
    if arguments.write:
        _write(generator, model_of(Path(arguments.model)), best, own, arguments)


def _print_table(trials: Sequence[Trial], own: Trial) -> None:
    """Best first, as rows of figures and bars."""
    top = max(trial.mean for trial in trials) or 1.0
    print(f"{'guidance':>8} {'temperature':>11} {'prompts':>7} {'score':>6}")
    for trial in trials:
        bar = "#" * round(BAR * trial.mean / top)
        mark = "  (MODEL's own)" if trial is own else ""
        settings = trial.sampling
        print(
            f"{settings.cfg_scale:8g} {settings.temperature:11g} {len(trial.scores):7} {trial.mean:6.3f} {bar}{mark}"
        )


def _write(
    generator: Generator, folder: Path, best: Trial, own: Trial, arguments: argparse.Namespace
) -> None:
    """Put the best settings into the model's folder."""
    from common.files import write_json
    from generation.sampling_file import hub_fields, write_sampling

    path = folder / "generation_config.json"
    stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stated |= hub_fields(best.sampling, generator.vocabulary.image_tokens)
    write_json(path, {key: value for key, value in stated.items() if value is not None})
    origin = (
        f"vqrae tune-sampling: {best.mean:.3f} by {arguments.scorer} on {len(best.scores)} prompts of "
        f"{arguments.prompts.name}, {arguments.n} pictures of each; {own.mean:.3f} with the former settings"
    )
    write_sampling(folder, best.sampling, origin)
    print(f"wrote {folder / 'sampling.json'}")
