"""What forked processes do in tests of signals, of dead and of hanging ranks: the command around a tiny run."""

from __future__ import annotations

import atexit
import importlib
import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pair_jobs
import tiny
import tiny_generator

from common.config import dump_config
from common.errors import UserError, run_cli
from common.training.state import TrainingState
from common.training.stop import listening

JOBS = {
    "tokenizer": (pair_jobs.tokenizer_train, tiny.tokenizer_recipe),
    "understanding": (pair_jobs.understanding_train, tiny.understanding_recipe),
    "generation": (pair_jobs.generation_train, tiny_generator.recipe),
}


def train(
    job: str,
    shelf: str,
    output: str,
    overrides: list[str],
    at: str | None = None,
    rank: int = 0,
    signal_number: int = 15,
    note: str | None = None,
) -> None:
    """A run of a trainer as its command makes it; at its end, the digest of the weights.

    Args:
        at: when rank `rank` gets a signal, or an error where its number is 0 (`signalled`).
        note: a file that gets the time of that.
    """
    trainer, recipe = JOBS[job]
    config = recipe(Path(shelf), Path(output), *overrides)
    hit = at is not None and os.environ["RANK"] == str(rank)

    def command() -> None:
        kept: list[TrainingState] = []
        start = TrainingState.__init__

        def remember(self: TrainingState, *inputs: Any, **named: Any) -> None:
            kept.append(self)
            start(self, *inputs, **named)

        with (
            listening(Path(output)),
            mock.patch.object(TrainingState, "__init__", remember),
            signalled(at, signal_number, note) if hit and at else nullcontext(),
        ):
            trainer.train(config)
        for name, engine in kept[0].engines.items():
            print(f"digest {name} {pair_jobs.digest(engine.module)}")

    try:
        run_cli(command)
    finally:
        atexit._run_exitfuncs()  # a forked process has no end of its own


def write_recipe(path: Path, pictures: Path, overrides: list[str]) -> None:
    """The tiny tokenizer's recipe, for a command to read."""
    path.write_text(dump_config(tiny.tokenizer_recipe(pictures, path.parent / "run", *overrides)))


def signalled(at: str, number: int, note: str | None = None) -> AbstractContextManager[Any]:
    """This process gets a signal in the middle of a function's call, as `MODULE:NAME:CALL`, CALL counting from 1."""
    module, name, wanted = at.split(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, last)
    calls = 0

    def signalling(*inputs: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(wanted):
            if note is not None:
                Path(note).write_text(str(time.time()))
            if not number:
                raise UserError("pictures: refused")
            os.kill(os.getpid(), number)
        return original(*inputs, **named)

    return mock.patch.object(owner, last, signalling)
