"""A folder of pictures for a list of prompts: over processes, resumable, extended by later calls.

    OUT/settings.json       what all pictures share; a later call with other settings is refused
    OUT/00000_0000.png      prompt 0, picture 0 of it; prompt, seed and settings are in its text chunks
    OUT/sheet.png           the first pictures of the last call with their prompts

Pictures are kept one by one (see `picture_record`): a call with more prompts, more pictures of each, or another batch
size draws what is not there yet.

What is notable here: batches are cut from the whole list, all of one size (the last is filled up), and whole batches
are dealt to processes. So each picture is drawn beside the same others whatever the number of processes and wherever a
run was interrupted, and comes out equal to the last bit on the same kind of machine. The list has the first picture of
every prompt, then the second of every prompt: so more pictures of each are further batches, not half of every batch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from common import dist
from common.data.images import read_image
from common.errors import UserError, refusing
from common.files import write_json, write_png
from common.outputs import check_pictures
from common.sheets import contact_sheet
from common.training.run import versions
from generation.batches import Job, jobs_for
from generation.drawing import Drawing, option_error
from generation.generator import Generator
from generation.picture_record import State, look, save
from generation.sampling import Sampling
from generation.sampling_file import as_json

SHEET_PROMPTS, SHEET_PICTURES = 16, 8
CHOSEN = "chosen_by"
"""In settings.json: who has chosen the pictures from more of them; absent where nobody has."""
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
    overwrite: bool = False,
) -> Drawn:
    """`write_pictures` of a generator that is loaded as `drawing` says; says which settings of the sampler are used.

    Args:
        model: its folder or hub id.

    Raises:
        UserError: a model, prompt or setting that cannot be used, before anything is drawn.
    """
    generator = load(drawing, model)
    return write_pictures(generator, prompts, n, folder, drawing, naming, model, numbers, overwrite)


def load(drawing: Drawing, model: str) -> Generator:
    """The generator as `drawing` says; says which settings of the sampler are used.

    Raises:
        UserError: a model or setting that cannot be used.
    """
    device = dist.start_process(drawing.device)
    dtype = getattr(torch, drawing.dtype) if drawing.dtype else None
    generator = Generator.from_pretrained(model, device, dtype)
    sampling = drawing.sampling(generator.sampling)
    try:
        sampling.check(generator.vocabulary.codebook_size)
    except ValueError as error:
        raise option_error(error) from error
    if dist.is_main():
        stated = f"; stated here: {', '.join(drawing.stated)}" if drawing.stated else ""
        print(f"sampling: {sampling} ({generator.origin}{stated})", flush=True)
    return generator


def write_pictures(
    generator: Generator,
    prompts: Sequence[str],
    n: int,
    folder: Path,
    drawing: Drawing,
    naming: Naming = flat,
    source: str = "",
    numbers: Sequence[int] | None = None,
    overwrite: bool = False,
) -> Drawn:
    """Draw what is not there yet: `n` pictures of each prompt. All processes call it together.

    Args:
        naming: file name of a picture within `folder`.
        source: the model's name, for the record.
        numbers: of the prompts, in a larger list of which these are a part; None: their places.
        overwrite: draw over files that hold other pictures; else they are an error.

    Raises:
        UserError: a prompt is too long or no valid text; the folder holds pictures of other settings, or other pictures
            under these names; it cannot be written; or the model's logits are not finite.
        ValueError: `top_k` over K.
    """
    sampling = drawing.sampling(generator.sampling)
    sampling.check(generator.vocabulary.codebook_size)
    generator.check_tokens(drawing.tokens)
    jobs = jobs_for(prompts, n, numbers)
    in_order = sorted(jobs, key=lambda job: job.sample_index)
    batches = generator.batches(in_order, drawing.batch_size, drawing.deterministic, drawing.truncate)
    settings = settings_of(generator, drawing, sampling, source)
    check_pictures([folder / "sheet.png"], overwrite)
    if not overwrite:
        compare_settings(folder, settings)
    mine = jobs[dist.rank() :: dist.world()]
    shares = dist.gather_objects({job: look(folder / naming(job), job, settings, overwrite) for job in mine})
    states: dict[Job, State] = {job: state for part in shares for job, state in part.items()}
    _claim(folder, settings, overwrite)
    waiting = [batch for batch in batches if any(states[job] != "kept" for job in batch.jobs)]
    waiting = waiting[dist.rank() :: dist.world()]
    steps = len(waiting) * generator.vocabulary.image_tokens
    with tqdm(total=steps, unit="code", desc="generate", disable=not dist.is_main()) as bar:
        for batch in waiting:
            drawn = generator.draw(batch, drawing.seed, sampling, drawing.truncate, on_step=bar.update)
            for job, picture in drawn.items():
                if states[job] != "kept":
                    save(picture, folder / naming(job), job, settings, len(batch.rows))
    dist.barrier()
    if dist.is_main():
        _write_sheet(folder, jobs, naming)
    dist.barrier()
    found = Counter(states.values())
    return Drawn([folder / naming(job) for job in jobs], found["kept"], found["damaged"])


def settings_of(generator: Generator, drawing: Drawing, sampling: Sampling, source: str) -> dict[str, Any]:
    """What shapes pictures but their prompts and numbers, and the model's name."""
    return {
        "model": source,
        "weights_sha256": generator.weights_sha256,
        "vqrae_sha256": generator.vocabulary.vqrae_sha256,
        "dtype": str(generator.dtype).removeprefix("torch."),
        "seed": drawing.seed,
        "sampling": as_json(sampling),
        "grid": list(generator.vocabulary.grid),
        "truncate": drawing.truncate,
        "deterministic": drawing.deterministic,
    }


def compare_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raises `UserError` if a folder's settings.json, where it has one, states others than `settings`."""
    path = folder / "settings.json"
    if not path.is_file():
        return
    with refusing(
        f"{path}: not a record of settings; remove it, or choose another folder",
        OSError,
        ValueError,
        TypeError,
    ):
        stated = dict(json.loads(path.read_text(encoding="utf-8")))
    for key, value in {CHOSEN: None, **settings}.items():
        if key != "model" and stated.get(key) != value:  # the same weights may have moved
            raise UserError(
                f"{folder}: holds pictures of other settings ({key}: {stated.get(key)}, now {value}); choose "
                "another folder, or remove it (vqrae generate has --overwrite)"
            )


def _claim(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Write settings.json where it is not there, or is to be another, once all processes have looked."""
    path = folder / "settings.json"
    if dist.is_main() and (overwrite or not path.is_file()):
        write_json(path, {**settings, "versions": versions()})
    dist.barrier()


def _write_sheet(folder: Path, jobs: Sequence[Job], naming: Naming) -> None:
    rows: dict[int, tuple[str, list[Image.Image]]] = {}
    for job in jobs:
        row = rows.setdefault(job.prompt_index, (job.prompt, []))[1]
        if len(rows) > SHEET_PROMPTS:
            del rows[job.prompt_index]
            break
        if job.sample_index < SHEET_PICTURES:
            row.append(read_image(folder / naming(job)))
    write_png(folder / "sheet.png", contact_sheet(list(rows.values())))
