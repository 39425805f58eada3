"""A folder of pictures for a list of prompts: over processes, resumable, every picture telling what made it.

    OUT/settings.json       what all pictures share; a later call with other settings is refused
    OUT/00000_0000.png      prompt 0, sample 0; prompt, seed and settings are in its text chunks
    OUT/sheet.png           the first pictures with their prompts

Pictures are kept one by one (see `picture_record`): a call with more prompts, more pictures of each, or another batch
size draws what is not there yet.

What is notable here: batches are cut from the whole list, all of one size (the last is filled up), and whole batches
are dealt to processes. So each picture is drawn beside the same others whatever the number of processes and wherever a
run was interrupted, and comes out equal to the last bit on the same kind of machine. The list has the first picture of
every prompt, then the second of every prompt: so more pictures of each are further batches, not half of every batch.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from common import dist
from common.errors import UserError
from common.files import write_json, write_png
from common.sheets import contact_sheet
from common.training.run import versions
from generation.drawing import Drawing, option_error
from generation.generator import Generator, Job, jobs_for
from generation.picture_record import State, look, save

SHEET_PROMPTS, SHEET_PICTURES = 16, 8
Naming = Callable[[Job], str]


@dataclass(frozen=True)
class Drawn:
    """All pictures of a call, prompt after prompt, and how many of them were there, and not whole, before it."""

    files: list[Path]
    kept: int
    damaged: int

    def __str__(self) -> str:
        again = f" ({self.damaged} of them anew: they were damaged)" if self.damaged else ""
        return f"{len(self.files) - self.kept} pictures drawn{again}, {self.kept} were there"


def flat(job: Job) -> str:
    """`00012_0003.png`."""
    return f"{job.prompt_index:05d}_{job.sample_index:04d}.png"


def geneval(job: Job) -> str:
    """`00012/samples/0003.png`, the layout that GenEval's tools read."""
    return f"{job.prompt_index:05d}/samples/{job.sample_index:04d}.png"


def draw(
    drawing: Drawing,
    model: str,
    prompts: Sequence[str],
    n: int,
    folder: Path,
    naming: Naming = flat,
    numbers: Sequence[int] | None = None,
) -> Drawn:
    """`write_pictures` of a generator that is loaded as `drawing` says.

    Args:
        model: its folder or hub id.

    Raises:
        UserError: a model, prompt or setting that cannot be used, before anything is drawn.
    """
    device = dist.start_process(drawing.device)
    dtype = getattr(torch, drawing.dtype) if drawing.dtype else None
    generator = Generator.from_pretrained(model, device, dtype)
    try:
        drawing.sampling.check(generator.vocabulary.codebook_size)
    except ValueError as error:
        raise option_error(error) from error
    return write_pictures(generator, prompts, n, folder, drawing, naming, model, numbers)


def write_pictures(
    generator: Generator,
    prompts: Sequence[str],
    n: int,
    folder: Path,
    drawing: Drawing,
    naming: Naming = flat,
    source: str = "",
    numbers: Sequence[int] | None = None,
) -> Drawn:
    """Draw what is not there yet: `n` pictures of each prompt. All processes call it together.

    Args:
        naming: file name of a picture within `folder`.
        source: the model's name, for the record.
        numbers: of the prompts, in a larger list of which these are a part; None: their places.

    Raises:
        UserError: a prompt is too long; the folder holds pictures of other settings, or cannot be written.
        ValueError: `top_k` over K.
    """
    seed, sampling, tokens, truncate = drawing.seed, drawing.sampling, drawing.tokens, drawing.truncate
    sampling.check(generator.vocabulary.codebook_size)
    for prompt in prompts:  # before anything is drawn
        generator.prompt_ids(prompt, tokens, truncate)
    jobs = jobs_for(prompts, n, numbers)
    size = min(drawing.batch_size, len(jobs))
    height, width = generator.grid(tokens)
    settings: dict[str, Any] = {
        "model": source,
        "weights_sha256": generator.weights_sha256,
        "vqrae_sha256": generator.vocabulary.vqrae_sha256,
        "dtype": str(generator.dtype).removeprefix("torch."),
        "seed": seed,
        "sampling": {**dataclasses.asdict(sampling), "cfg_interval": list(sampling.cfg_interval)},
        "grid": [height, width],
        "truncate": truncate,
    }
    _claim(folder, settings)
    states = _look_at(folder, jobs, naming, settings)
    in_order = sorted(jobs, key=lambda job: job.sample_index)
    batches = [in_order[first : first + size] for first in range(0, len(jobs), size)]
    waiting = [part for part in batches if any(states[job] != "kept" for job in part)]
    mine = waiting[dist.rank() :: dist.world()]
    with tqdm(
        total=len(mine) * height * width, unit="code", desc="generate", disable=not dist.is_main()
    ) as bar:
        for part in mine:
            filled = [*part, *[part[-1]] * (size - len(part))]
            codes = generator.draw(filled, seed, sampling, tokens, truncate, on_step=bar.update)
            for job, picture in zip(part, generator.decode(codes[: len(part)]), strict=True):
                if states[job] != "kept":
                    save(picture, folder / naming(job), job, settings, size)
    dist.barrier()
    if dist.is_main():
        _write_sheet(folder, jobs, naming)
    dist.barrier()
    found = Counter(states.values())
    return Drawn([folder / naming(job) for job in jobs], found["kept"], found["damaged"])


def _look_at(
    folder: Path, jobs: Sequence[Job], naming: Naming, settings: Mapping[str, Any]
) -> dict[Job, State]:
    """What is there of the pictures; each process looks at a share, and none writes before all have looked."""
    mine = {job: look(folder / naming(job), job, settings) for job in jobs[dist.rank() :: dist.world()]}
    return {job: state for part in dist.gather_objects(mine) for job, state in part.items()}


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write settings.json, or hold what stands there against `settings`."""
    path = folder / "settings.json"
    try:
        if dist.is_main() and not path.is_file():
            write_json(path, {**settings, "versions": versions()})
        dist.barrier()
        stated = json.loads(path.read_text(encoding="utf-8"))
        for key, value in settings.items():
            if key != "model" and stated.get(key) != value:  # the same weights may have moved
                raise UserError(
                    f"{folder}: holds pictures of other settings ({key}: {stated.get(key)}, now {value}); choose "
                    "another folder, or remove it"
                )
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a record of settings; remove it, or choose another folder") from error


def _write_sheet(folder: Path, jobs: Sequence[Job], naming: Naming) -> None:
    rows: dict[int, tuple[str, list[Image.Image]]] = {}
    for job in jobs:
        row = rows.setdefault(job.prompt_index, (job.prompt, []))[1]
        if len(rows) > SHEET_PROMPTS:
            del rows[job.prompt_index]
            break
        if job.sample_index < SHEET_PICTURES:
            with Image.open(folder / naming(job)) as picture:
                row.append(picture.convert("RGB"))
    write_png(folder / "sheet.png", contact_sheet(list(rows.values())))
