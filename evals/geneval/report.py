"""What GenEval leaves behind: scores with intervals, verdicts.jsonl, page.html, results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import dist
from common.files import write_text
from evals.bootstrap import Interval, intervals
from evals.drawing import Origin, mixed
from evals.fingerprint import fingerprint
from evals.geneval.page import Judged, write_page
from evals.geneval.prompts import OFFICIAL_SHA256, Prompt, sha256_of
from evals.geneval.rules import TAGS, tag_scores
from evals.result_table import finish
from evals.results import Results

OFFICIAL_PICTURES = 4
# Of model.safetensors of openai/clip-vit-large-patch14 on the hub, wherever a copy lies.
OFFICIAL_CLIP_SHA256 = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"


def report(
    output: Path,
    judged: Sequence[Judged],
    *,
    prompts: Sequence[Prompt],
    source: str,
    per_prompt: int,
    detector: Mapping[str, Any],
    origin: Origin,
    seconds: float,
) -> None:
    """Write all of it into `output` and print the table; one process calls it.

    Args:
        prompts: the whole set; `judged` has some of it where --limit was given.
        source: where the prompts come from.
        per_prompt: pictures of each.
        detector: its identity.
        origin: of the pictures.
    """
    prompt_hash = sha256_of(prompts)
    chosen = {picture.prompt.number for picture, _, _ in judged}
    # Numbers that are left out tell of a folder that --limit, or an end too soon, left behind.
    gaps = [one.number for one in prompts] != list(range(len(prompts)))
    partial = gaps or len(chosen) < len(prompts)
    scores, spans = score(judged, per_prompt, whole=prompt_hash == OFFICIAL_SHA256 and not partial)
    write_verdicts(output / "verdicts.jsonl", judged)
    empty = sum(not verdict.kept for _, _, verdict in judged)
    page = output / "page.html"
    write_page(page, f"GenEval: {origin.model['source']}", scores, spans, judged)
    results = Results(
        benchmark="geneval",
        protocol=protocol(detector, prompt_hash, per_prompt),
        scores=scores,
        expected=len(chosen) * per_prompt,
        scored=len(judged),
        partial=partial,
        settings={"pictures_per_prompt": per_prompt, "detector": detector, "drawing": origin.drawing},
        model=origin.model,
        prompt_set={"source": source, "sha256": prompt_hash},
        seconds=round(seconds, 1),
        processes=dist.world(),
        fingerprints=fingerprint([one.text for one in prompts]),
        details={
            "intervals_95": {name: list(span) for name, span in spans.items()},
            "pictures_without_objects": empty,
        },
    )
    low, high = spans["overall"]
    notes = [f"overall, 95% of resampled prompts: {low:.3f} to {high:.3f}; all pictures: {page}"]
    notes += mixed(origin)
    if 2 * empty > len(judged):
        notes.append(f"nothing at all was found in {empty} of {len(judged)} pictures; look at some of them")
    finish(output, results, notes)


def score(
    judged: Sequence[Judged], per_prompt: int, whole: bool
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Scores and their 95% intervals: `overall`, then each tag in the order of `TAGS`.

    Args:
        whole: the official set, in which every tag must have prompts; else those without are left out.

    Raises:
        UserError: see `tag_scores`.
    """
    numbers = sorted({picture.prompt.number for picture, _, _ in judged})
    place = {number: index for index, number in enumerate(numbers)}
    metadata = {picture.prompt.number: picture.prompt.metadata for picture, _, _ in judged}
    verdicts = {(place[picture.prompt.number], picture.image): one.correct for picture, _, one in judged}
    scores = tag_scores([metadata[number] for number in numbers], verdicts, per_prompt, partial=not whole)
    shares: dict[str, list[float]] = {tag: [] for tag in TAGS if tag in scores}
    for number in numbers:
        right = [verdicts[place[number], image] for image in range(per_prompt)]
        shares[metadata[number]["tag"]].append(sum(right) / per_prompt)
    return scores, intervals(shares)


def protocol(detector: Mapping[str, Any], prompts_sha256: str, per_prompt: int) -> str:
    """`official`, or how it differs: figures of different protocols are not compared."""
    differences = []
    if prompts_sha256 != OFFICIAL_SHA256:
        differences.append("other prompts")
    if per_prompt != OFFICIAL_PICTURES:
        differences.append(f"{per_prompt} pictures a prompt")
    if not detector.get("original_weights"):
        differences.append(f"detector {detector['name']}")
    elif detector.get("clip_sha256") != OFFICIAL_CLIP_SHA256:
        differences.append(f"colours by {detector.get('clip')}")
    return ", ".join(differences) or "official"


def write_verdicts(path: Path, judged: Sequence[Judged]) -> None:
    """A line a picture, with the fields of the original's results.jsonl, which its `summary_scores.py` reads too."""
    lines = []
    for picture, _, verdict in judged:
        details = {
            name: [[*one.box, float(one.score)] for one in group] for name, group in verdict.kept.items()
        }
        record = {
            "filename": str(picture.path),
            "tag": picture.prompt.metadata["tag"],
            "prompt": picture.prompt.text,
            "correct": verdict.correct,
            "reason": "\n".join(verdict.reasons),
            "metadata": json.dumps(picture.prompt.metadata),
            "details": json.dumps(details),
        }
        lines.append(json.dumps(record) + "\n")
    write_text(path, "".join(lines))
