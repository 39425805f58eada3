"""The cells of the table of last against all hidden states: one training and its scores each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.deep_parts import photographs
from benchmarks.deep_parts.places import Cell, Places
from benchmarks.measure import ROOT, in_own_process
from common.errors import UserError

RECIPES = ROOT / "tokenizer" / "recipes"
DEPTH = 4  # layers of every encoder here
ARMS: dict[str, list[int] | None] = {"last": None, "all": list(range(DEPTH + 1))}
QUIET = ("logging.log_every=50", "logging.picture_every=100000", "logging.evaluate_every=100000")
GENERATOR_STEPS = 2200


def all_cells() -> list[Cell]:
    """In the order in which they are run: what is told by fewer minutes first."""
    cells = [
        Cell(kind="stage1", encoder=encoder, arm=arm, seed=seed)
        for encoder in ("demo", "meaning", "photographs")
        for seed in range(3)
        for arm in ARMS
    ]
    for kind, seeds in (("stage2", 1), ("generator", 2), ("vqa", 1)):
        cells += [
            Cell(kind=kind, encoder="demo", arm=arm, seed=seed) for seed in range(seeds) for arm in ARMS
        ]
    return cells


def stage1(cell: Cell, places: Places) -> dict[str, float]:
    """500 steps of the demo's first stage on a frozen encoder."""
    run, encoder = places.run(cell), places.encoder(cell.encoder)
    changes = ["steps=500", f"seed={cell.seed}", f"model.encoder.source={encoder}"]
    if cell.encoder == "photographs":
        photographs.teach(encoder, places)
        train_tokenizer("demo_stage1", run, cell, places, *changes, *photographs.overrides(places))
        return photographs.scores(run / "model", places)
    if cell.encoder == "meaning" and not (encoder / "config.json").is_file():
        words = ["-m", "scripts.demo.pretrain_encoder", "--meaning-alone"]
        command(run, [sys.executable, *words, "--world", str(places.demo / "world"), "--out", str(encoder)])
    train_tokenizer("demo_stage1", run, cell, places, *changes)
    return scores_of_world(run / "model", places)


def stage2(cell: Cell, places: Places) -> dict[str, float]:
    """The demo's second stage, after stage 1 of 500 steps."""
    run = places.run(cell)
    former = places.run(cell.at("stage1")) / "model"
    train_tokenizer("demo_stage2", run, cell, places, f"init_from={former}", f"seed={cell.seed + 1}")
    return scores_of_world(run / "model", places)


def vqa(cell: Cell, places: Places) -> dict[str, float]:
    """Both stages of the demo's understanding on the encoder of stage 2; exact answers to held-out questions."""
    from evals.results import read

    run, world = places.run(cell), places.demo / "world"
    tower = f"model.tower.source={places.run(cell.at('stage2')) / 'model'}"
    words = f"model.language_model.source={places.demo / 'language_model'}"
    former = run / "pretrain" / "model"
    for stage, file, more in (
        ("pretrain", "descriptions.json", [words]),
        ("sft", "questions.json", [f"init_from={former}", words]),
    ):
        data = [f"data.sources.0.annotations={world / file}", f"data.sources.0.images={world}"]
        train(run / stage, "understanding", f"demo_{stage}", places, tower, *data, *more, f"seed={cell.seed}")
    answers = run / "answers"
    asked = ["--questions", str(world / "val_questions.json"), "--batch-size", "64", "--device", "cpu"]
    script = ["bash", str(ROOT / "evals" / "run_lmms_eval.sh"), str(run / "sft" / "model"), *asked]
    command(run, [*script, "--output", str(answers)])
    return {f"vqa_{name}": score for name, score in read(answers)["scores"].items()}


def generator(cell: Cell, places: Places) -> dict[str, float]:
    """A generator of the codes of stage 2: nats a code on held-out captions, and GenEval's rules with guidance."""
    from common.training.records import read_records
    from evals.results import read

    run, world = places.run(cell), places.demo / "world"
    codes = places.output / "codes" / cell.arm
    changes = [
        f"model.tokenizer.source={places.run(cell.at('stage2')) / 'model'}",
        f"model.tokenizer.quantizer_layers={stated(ARMS[cell.arm])}",
        f"model.language_model.text_tokenizer={places.demo / 'text_tokenizer'}",
        f"data.sources.0.path={world / 'shards'}",
        f"data.codes={codes}",
        f"evaluation.source.path={world / 'val'}",
        f"evaluation.source.captions={world / 'val_captions.jsonl'}",
        f"seed={cell.seed}",
        f"steps={GENERATOR_STEPS}",
    ]
    recipe = str(ROOT / "generation" / "recipes" / "demo.yaml")
    extract = str(ROOT / "generation" / "extract_codes.py")
    command(run, [sys.executable, extract, "--config", recipe, f"output={run / 'run'}", *changes])
    train(run / "run", "generation", "demo", places, *changes)
    pictures = run / "geneval"
    options = [
        "--detector",
        "world",
        "--prompts",
        str(world / "prompts.jsonl"),
        "-n",
        "16",
        "--device",
        "cpu",
    ]
    script = ["bash", str(ROOT / "evals" / "run_geneval.sh"), str(run / "run" / "model"), *options]
    command(run, [*script, "--batch-size", "64", "--output", str(pictures)])
    evaluations = [line for line in read_records(run / "run") if line["kind"] == "evaluation"]
    found = read(pictures)["scores"]
    return {"nats_a_code": evaluations[-1]["loss"], **{f"geneval_{name}": v for name, v in found.items()}}


KINDS: Mapping[str, Callable[[Cell, Places], dict[str, float]]] = {
    "stage1": stage1,
    "stage2": stage2,
    "generator": generator,
    "vqa": vqa,
}


def train_tokenizer(recipe: str, run: Path, cell: Cell, places: Places, *changes: str) -> None:
    """In this process, which has everything imported; nothing where the run has ended before."""
    if (run / "model" / "config.json").is_file():
        return
    from common.config import load_config
    from tokenizer.config import TokenizerConfig
    from tokenizer.train import train as train_here

    shared = [
        f"output={run}",
        f"data.sources.0.path={places.demo / 'world' / 'shards'}",
        f"model.quantizer_layers={stated(ARMS[cell.arm])}",
        f"model.encoder.source={places.encoder(cell.encoder)}",
        f"engine.precision={places.precision}",
        "evaluation.images=null",
        "evaluation.distances=[]",
        "checkpoint.save_every=500",
        *QUIET,
    ]
    train_here(load_config(TokenizerConfig, RECIPES / f"{recipe}.yaml", [*shared, *changes]))


def train(run: Path, job: str, recipe: str, places: Places, *changes: str) -> None:
    """Another job's trainer, in a process of its own."""
    if (run / "model" / "config.json").is_file():
        return
    words = ["--config", str(ROOT / job / "recipes" / f"{recipe}.yaml"), f"output={run}"]
    more = [f"engine.precision={places.precision}", *changes]
    command(run, [sys.executable, str(ROOT / job / "train.py"), *words, *more])


def command(run: Path, words: list[str]) -> None:
    """Run it; what it says goes to RUN.log.

    Raises:
        UserError: it failed.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.parent / f"{run.name}.log"
    with log.open("a") as said:
        done = subprocess.run(words, cwd=ROOT, stdout=said, stderr=said, env=dict(os.environ), check=False)
    if done.returncode:
        raise UserError(f"{log}: {words[1]} failed with exit code {done.returncode}")


def scores_of_world(model: Path, places: Places) -> dict[str, Any]:
    """PSNR, SSIM, use of codes, detected scenes and probes on the held-out scenes."""
    world = str(places.demo / "world")
    return in_own_process("scripts.demo.tokenizer_scores", "--world", world, model)[0]


def stated(layers: list[int] | None) -> str:
    """As a recipe states it."""
    return "null" if layers is None else str(layers)
