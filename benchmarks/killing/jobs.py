"""The runs that `benchmarks.chaos` kills: the real trainers on tiny recipes, with a ledger of what each step was given.

torchrun --nproc-per-node 2 -m benchmarks.killing.jobs JOB RECIPE RUN       as `benchmarks.chaos --torchrun` starts them
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

JOBS = ("tokenizer", "understanding", "generation")


class Ledger:
    """What this rank took from its data, one line a micro-batch, written so that a kill a moment later loses none.

    Args:
        path: a file of this rank, appended to over all its lives.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        life = os.environ.get("CHAOS_LIFE") or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.note({"life": int(life), "pid": os.getpid()})

    def note(self, entry: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def follow(self, batches: Iterator[Any], entries: Callable[[Any], list[list[str]]]) -> Iterator[Any]:
        """The same batches, each noted as it is handed to the trainer."""
        for batch in batches:
            for samples in entries(batch):
                self.note({"samples": samples})
            yield batch


def content(batch: dict[str, Any]) -> list[str]:
    """A micro-batch of one sample by what is in it, where it bears no key."""
    return ["-".join(digest(batch[name]) for name in ("input_ids", "pixel_values") if name in batch)]


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:12]


def keep_ledger(job: str, ledger: Ledger) -> Callable[[Any], None]:
    """Put the ledger between the data and the trainer; the trainer's own `train`."""
    if job == "tokenizer":
        from common.data import stream
        from tokenizer import codebook_start  # noqa: F401  reads with a loader of its own, which is not followed
        from tokenizer.train import train

        loader = stream.training_loader
        stream.training_loader = lambda *a, **k: _Followed(loader(*a, **k), ledger)  # type: ignore[assignment,return-value]
        return train
    if job == "understanding":
        from understanding import batches as understanding_batches
        from understanding.train import train as train_understanding

        read = understanding_batches.training_batches
        understanding_batches.training_batches = lambda *a, **k: ledger.follow(
            read(*a, **k), lambda step: [content(batch) for batch in step]
        )
        return train_understanding
    from generation import dataset
    from generation.train import train as train_generation

    drawn = dataset.training_batches
    dataset.training_batches = lambda *a, **k: ledger.follow(drawn(*a, **k), lambda batch: [content(batch)])
    return train_generation


class _Followed:
    def __init__(self, loader: Any, ledger: Ledger) -> None:
        self.loader, self.ledger = loader, ledger

    def __iter__(self) -> Iterator[Any]:
        return self.ledger.follow(iter(self.loader), lambda batch: [list(batch["key"])])


def note_resumed(ledger: Ledger) -> None:
    """The ledger hears from which step the trainer says that it goes on."""
    from common.training.reporter import Reporter

    say = Reporter.say

    def heard(self: Reporter, text: str) -> None:
        found = re.search(r"resuming from step (\d+)", text)
        if found:
            ledger.note({"resumed": int(found[1])})
        say(self, text)

    Reporter.say = heard  # type: ignore[method-assign]


def run(job: str, recipe: str, output: str) -> None:
    """One rank's life; its ledger stands beside the run's folder."""
    torch.set_num_threads(1)
    from common.config import load_config

    ledger = Ledger(Path(f"{output}_rank{os.environ['RANK']}.jsonl"))
    train = keep_ledger(job, ledger)
    note_resumed(ledger)
    train(load_config(_kind(job), recipe, [f"output={output}"]))


def _kind(job: str) -> Any:
    if job == "tokenizer":
        from tokenizer.config import TokenizerConfig

        return TokenizerConfig
    if job == "understanding":
        from understanding.config import UnderstandingConfig

        return UnderstandingConfig
    from generation.config import GenerationConfig

    return GenerationConfig


def write_world(folder: str) -> None:
    """Data, models and recipes of all three jobs, in `folder`; needs `tests` on the path."""
    _write_world(Path(folder))


def _write_world(folder: Path) -> None:
    import tiny  # type: ignore[import-not-found]
    import tiny_generator  # type: ignore[import-not-found]

    from common.config import dump_config

    pictures = tiny.write_pictures(folder / "pictures", 40)
    shelf = tiny.write_understanding_shelf(folder / "shelf")
    tiny.write_conversations(shelf, count=20, text_only=0)
    generation = tiny_generator.write_shelf(folder / "generation", 40)
    often = (
        "checkpoint.save_every=4",
        "logging={log_every: 4, picture_every: 999, evaluate_every: 999, writers: []}",
    )
    output = folder / "OUTPUT"
    recipes = {
        "tokenizer": tiny.tokenizer_recipe(
            pictures, output, *tiny.STAGE_2, "steps=40", "batch.micro_size=1", "evaluation.images=null", *often
        ),
        "understanding": tiny.understanding_recipe(
            shelf, output, "epochs=8", "batch.micro_size=1", "model.template=vicuna_v1",
            "model.train=[projector, language_model]", *often,
        ),
        "generation": tiny_generator.recipe(
            generation, output, "steps=40", "batch.micro_size=1", "samples.prompts=[]", "evaluation.source=null", *often
        ),
    }  # fmt: skip
    for job, recipe in recipes.items():
        (folder / f"{job}.yaml").write_text(dump_config(recipe), encoding="utf-8")


if __name__ == "__main__":
    run(*sys.argv[1:4])
