"""A folder of the best pictures of a list of prompts: over processes, resumable, extended by later calls.

    OUT/00000_0003.png    picture 3 of prompt 0, the best of those that were drawn
    OUT/settings.json     as `generation/picture_folder.py` writes it, and who has chosen
    OUT/scores.jsonl      a line a prompt: the scores of all its pictures, and which were chosen
    OUT/sheet.png         the first of the last call with their prompts, best first
    OUT/others/           while a call runs all pictures, afterwards those that were not chosen, if they are kept

What is notable here: nothing is chosen before all is drawn and scored, and pictures and scores are kept one by one
until then; so a call that was stopped goes on where it was. A prompt that was chosen for among as many, by the same
judge, is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import dist
from common.data.images import read_image
from common.errors import UserError, refusing
from common.files import remove_folder, whole_file, write_json, write_png, write_text
from common.sheets import contact_sheet
from common.text import read_json_lines
from evals.answers import Answers, answer_key, essential
from evals.scorers.best_of import ranked
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer
from generation.batches import Job
from generation.drawing import Drawing
from generation.generator import Generator
from generation.picture_folder import (
    CHOSEN,
    SHEET_PICTURES,
    SHEET_PROMPTS,
    compare_settings,
    flat,
    settings_of,
    write_pictures,
)
from generation.picture_record import look, places

OTHERS, SCORES = "others", "scores.jsonl"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The `keep` best of `of` pictures of each prompt, in `folder`.

    Args:
        keep_all: the others stay too, in `folder/others`.
        overwrite: choose anew, over pictures of another model, other settings or another judge.
    """

    folder: Path
    of: int
    keep: int = 1
    keep_all: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Chosen:
    """Prompts that a call chose for, prompts that were chosen for already, and the mean score of what is chosen."""

    now: int
    before: int
    score: float

    def __str__(self) -> str:
        told = f", {self.before} were there" if self.before else ""
        return f"chosen for {self.now} prompts{told}; mean score of what is chosen {self.score:.3f}"


def choose(
    generator: Generator,
    prompts: Sequence[ScoredPrompt],
    scorer: Scorer,
    choice: Choice,
    drawing: Drawing,
    source: str = "",
) -> Chosen:
    """Draw, score and choose what is not there yet. All processes call it together.

    Args:
        source: the model's name, for the record.

    Raises:
        UserError: as of `write_pictures` and `Scorer.score`; or the folder's pictures were chosen by another judge.
    """
    folder, others = choice.folder, choice.folder / OTHERS
    drawn = settings_of(generator, drawing, drawing.sampling(generator.sampling), source)
    settings = {**drawn, CHOSEN: essential(scorer.identity)}
    if not choice.overwrite:
        compare_settings(folder, settings)
    texts = [prompt.text for prompt in prompts]
    numbers = range(len(texts)) if choice.overwrite else places(folder, texts, beside=others)
    rows = {} if choice.overwrite else dict(_read_rows(folder / SCORES))
    jobs = {
        number: (prompt, [Job(prompt.text, number, sample) for sample in range(choice.of)])
        for number, prompt in zip(numbers, prompts, strict=True)
    }
    waiting = {
        number: pair
        for number, pair in jobs.items()
        if choice.overwrite or not _is_done(rows.get(pair[0].text), *pair, choice, drawn)
    }
    dist.barrier()  # all have looked
    if dist.is_main():
        write_json(folder / "settings.json", settings)
        _bring_back(waiting.values(), folder, others, drawn)
    dist.barrier()
    if waiting:
        asked = [prompt.text for prompt, _ in waiting.values()]
        write_pictures(
            generator, asked, choice.of, others, drawing, flat, source, list(waiting), choice.overwrite
        )
        _score(scorer, list(waiting.values()), others)
    if dist.is_main():
        rows |= _choose(scorer, list(waiting.values()), choice, rows, drawn)
        write_text(folder / SCORES, "".join(json.dumps(row) + "\n" for row in rows.values()))
        mine = [rows[prompt.text] for prompt in prompts]
        _write_sheet(folder, mine)
        if not choice.keep_all:
            _clear(others, [job for _, of_prompt in waiting.values() for job in of_prompt])
    dist.barrier()
    rows = dict(_read_rows(folder / SCORES))
    best = [
        row["scores"][number] for prompt in prompts for row in [rows[prompt.text]] for number in row["chosen"]
    ]
    return Chosen(len(waiting), len(prompts) - len(waiting), sum(best) / len(best))


def _is_done(
    row: Mapping[str, Any] | None,
    prompt: ScoredPrompt,
    jobs: Sequence[Job],
    choice: Choice,
    drawn: dict[str, Any],
) -> bool:
    """Whether a former call has chosen as this one would, and what it chose is there."""
    if row is None or row["metadata"] != prompt.metadata or len(row["scores"]) != choice.of:
        return False
    if len(row["chosen"]) != choice.keep:
        return False
    return all(
        look(choice.folder / flat(jobs[number]), jobs[number], drawn) == "kept" for number in row["chosen"]
    )


def _bring_back(waiting: Any, folder: Path, others: Path, drawn: dict[str, Any]) -> None:
    """Pictures that were chosen before stand among those to choose from again, and need not be drawn."""
    for _, jobs in waiting:
        for job in jobs:
            path = folder / flat(job)
            if look(path, job, drawn, overwrite=True) == "kept" and not (others / flat(job)).exists():
                _copy(path, others / flat(job))


def _score(scorer: Scorer, waiting: Sequence[tuple[ScoredPrompt, list[Job]]], others: Path) -> None:
    """Scores of all pictures that have none yet, each prompt by one process."""
    from tqdm import tqdm

    kept = Answers(others / "scores", dist.rank())
    for prompt, jobs in tqdm(
        waiting[dist.rank() :: dist.world()], unit="prompt", desc="judge", disable=not dist.is_main()
    ):
        pictures = [read_image(others / flat(job)) for job in jobs]
        keys = [_key(scorer, prompt, picture) for picture in pictures]
        open_ = [number for number, key in enumerate(keys) if kept.get(key) is None]
        scores = scorer.score(prompt, [pictures[number] for number in open_])
        kept.add({keys[number]: repr(score) for number, score in zip(open_, scores, strict=True)})
    dist.barrier()


def _choose(
    scorer: Scorer,
    waiting: Sequence[tuple[ScoredPrompt, list[Job]]],
    choice: Choice,
    former: Mapping[str, Mapping[str, Any]],
    drawn: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Put the best pictures in their place; a row of scores.jsonl for each prompt, by its text."""
    others = choice.folder / OTHERS
    kept = Answers(others / "scores") if waiting else Answers(None)
    rows: dict[str, dict[str, Any]] = {}
    for prompt, jobs in waiting:
        found = [kept.get(_key(scorer, prompt, read_image(others / flat(job)))) for job in jobs]
        if None in found:
            raise UserError(f"{others}: a score is missing: a picture has changed while they were judged")
        scores = [float(str(one)) for one in found]
        chosen = ranked(scores)[: choice.keep]
        for number in {*range(choice.of), *former.get(prompt.text, {}).get("chosen", ())} - set(chosen):
            job = Job(prompt.text, jobs[0].prompt_index, number)
            if look(choice.folder / flat(job), job, drawn, overwrite=True) == "kept":
                (choice.folder / flat(job)).unlink()  # of a former call
        for number in chosen:
            _copy(others / flat(jobs[number]), choice.folder / flat(jobs[number]))
            if choice.keep_all:
                (others / flat(jobs[number])).unlink()
        rows[prompt.text] = {
            "prompt": prompt.text,
            "metadata": prompt.metadata,
            "scores": scores,
            "chosen": chosen,
            "files": [flat(jobs[number]) for number in chosen],
        }
    return rows


def _clear(others: Path, jobs: Sequence[Job]) -> None:
    """Remove what this call has drawn; what a former one was to keep stays."""
    for job in jobs:
        (others / flat(job)).unlink(missing_ok=True)
    if not any(others.glob("[0-9]*_[0-9]*.png")):
        remove_folder(others)


def _key(scorer: Scorer, prompt: ScoredPrompt, picture: Any) -> str:
    return answer_key(
        json.dumps(essential(scorer.identity), sort_keys=True), [picture], [prompt.metadata], {}
    )


def _read_rows(path: Path) -> Any:
    """The rows of scores.jsonl by their prompts, if it is there.

    Raises:
        UserError: it is something else.
    """
    if path.is_file():
        for number, row in read_json_lines(path):
            with refusing(f"{path}: line {number}: no record of a choice", KeyError, TypeError, ValueError):
                text, _, scores, chosen = row["prompt"], row["metadata"], row["scores"], row["chosen"]
                if not all(0 <= one < len(scores) for one in chosen) or not chosen:
                    raise ValueError("chosen: expected numbers of pictures")
                yield text, row


def _write_sheet(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    shown = [
        (row["prompt"], [read_image(folder / name) for name in row["files"][:SHEET_PICTURES]])
        for row in rows[:SHEET_PROMPTS]
    ]
    write_png(folder / "sheet.png", contact_sheet(shown))


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)
