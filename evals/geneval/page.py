"""GenEval's page.html: every picture, what was found in it, and why it passed or failed.

What is notable here: the page is one small file, whatever the number of pictures. It opens without a network and
runs no script: thumbnails load as they come into view, a click opens the picture itself, and the browser draws the
boxes over them, in the picture's own pixels, so that they stay on the objects at any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from common.files import write_text
from evals.bootstrap import Interval
from evals.detectors.detection import Detection
from evals.geneval.detections import Found
from evals.geneval.prompts import Picture, Prompt
from evals.geneval.rules import Verdict
from evals.geneval.thumbnails import SMALL, address, thumbnail_of, write_thumbnails
from evals.geneval.wording import in_words

Judged = tuple[Picture, Found, Verdict]

UNSURE = (
    0.1  # of what the rules do not look at, less sure boxes are not drawn: a hundred guesses hide a picture
)

STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
h2 { margin: 1.5em 0 .3em; scroll-margin-top: 3em } h2 a { font-size: 12px; font-weight: normal }
h3 { font-size: 1em; margin: 1em 0 .3em }
h1 { overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
#show { position: sticky; top: 0; z-index: 1; padding: .5em 0; background: #fff }
section { content-visibility: auto; contain-intrinsic-size: auto 320px }
.row { display: flex; flex-wrap: wrap; gap: 10px }
figure { margin: 0; width: 220px; border-top: 5px solid #c33 } figure.passed { border-color: #2a2 }
figure a { display: block; position: relative; overflow: hidden }
img { display: block; width: 100%; height: auto } img.small { image-rendering: pixelated }
svg { position: absolute; inset: 0; width: 100%; height: 100% }
rect { fill: none; stroke: #0ff; stroke-width: 2; vector-effect: non-scaling-stroke }
.unused rect { stroke: #fff; stroke-dasharray: 3; opacity: .7 }
text { fill: #000; stroke: #0ff; stroke-width: .25em; paint-order: stroke } .unused text { stroke: #fff; opacity: .7 }
figcaption { font-size: 12px; padding-top: 3px }
body:has(#only-failed:checked) :is(figure.passed, section:not(.failures)) { display: none }
body:has(#only-passed:checked) :is(figure.failed, section:not(.passes)) { display: none }
body:has(#no-boxes:checked) svg { visibility: hidden }
"""
SHOW = """<p id="show"><label><input type="radio" name="show" checked> all</label>
<label><input type="radio" name="show" id="only-failed"> failed</label>
<label><input type="radio" name="show" id="only-passed"> passed</label>
<label><input type="checkbox" id="no-boxes"> without boxes</label>
<br>Dashed: what the rules did not look at, too unsure or one too many. A click opens the picture itself.</p>"""


def write_page(
    path: Path,
    title: str,
    scores: Mapping[str, float],
    intervals: Mapping[str, Interval],
    judged: Sequence[Judged],
) -> None:
    """Write the page, and thumbnails beside it; all links are relative to the page's folder.

    Args:
        scores: `overall` and the tags; `intervals` of each.
        judged: prompt after prompt.

    Raises:
        UserError: it cannot be written, or a picture not be read.
    """
    write_thumbnails(path.parent, [(picture, found) for picture, found, _ in judged])
    tags: dict[str, list[tuple[Prompt, list[Judged]]]] = {}
    for prompt, pictures in groupby(judged, key=lambda one: one[0].prompt):
        tags.setdefault(prompt.metadata["tag"], []).append((prompt, list(pictures)))
    body = [f"<h1>{escape(title)}</h1>", _table(scores, intervals, judged), SHOW]
    for tag, prompts in tags.items():
        body.append(
            f'<h2 id="{_name(tag)}">{escape(_spoken(tag))} <a href="#scores">back to the scores</a></h2>'
        )
        body += [_section(prompt, pictures, path.parent) for prompt, pictures in prompts]
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n",
    )


def _table(scores: Mapping[str, float], intervals: Mapping[str, Interval], judged: Sequence[Judged]) -> str:
    rows = []
    for name, score in scores.items():
        of_tag = [one for picture, _, one in judged if name in ("overall", picture.prompt.metadata["tag"])]
        passed = sum(one.correct for one in of_tag)
        label = escape(_spoken(name))
        link = label if name == "overall" else f'<a href="#{_name(name)}">{label}</a>'
        low, high = intervals[name]
        rows.append(f"<tr><td>{link}<td>{score:.3f}<td>{low:.3f} to {high:.3f}<td>{passed} of {len(of_tag)}")
    head = "<tr><th>tag<th>score<th>95% of resampled prompts<th>pictures that passed"
    return f'<table id="scores">{head}{"".join(rows)}</table>'


def _section(prompt: Prompt, pictures: Sequence[Judged], folder: Path) -> str:
    passed = sum(verdict.correct for _, _, verdict in pictures)
    kinds = " ".join(["passes"] * (passed > 0) + ["failures"] * (passed < len(pictures)))
    figures = "".join(_figure(one, folder) for one in pictures)
    return (
        f'<section class="{kinds}"><h3>{prompt.number}. {escape(prompt.text)}: {passed} of {len(pictures)}</h3>'
        f'<div class="row">{figures}</div></section>'
    )


def _figure(judged: Judged, folder: Path) -> str:
    picture, found, verdict = judged
    width, height = found.size
    kept = {id(one) for group in verdict.kept.values() for one in group}
    drawn = [one for one in found.detections if id(one) in kept or one.score > UNSURE]
    boxes = "".join(_box(one, id(one) in kept, width) for one in drawn)
    kind = "passed" if verdict.correct else "failed"
    small = ' class="small"' if min(width, height) < SMALL else ""
    reasons = "; ".join(in_words(picture.prompt.metadata, verdict)) or "as asked for"
    return (
        f'<figure class="{kind}"><a href="{address(picture.path, folder)}">'
        f'<img{small} loading="lazy" src="{thumbnail_of(folder, picture, found)}" width="{width}" height="{height}" '
        f'alt="{escape(picture.prompt.text)}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{boxes}</svg></a>'
        f"<figcaption>{kind}: {escape(reasons)}</figcaption></figure>"
    )


def _box(one: Detection, kept: bool, width: int) -> str:
    """A box with its words, in px of a picture of a width."""
    x0, y0, x1, y1 = (float(value) for value in one.box)
    color = f"{one.color} " if isinstance(one.color, str) else ""
    label, size = f"{color}{one.name} {one.score:.2f}", width / 16
    # Words stay within the picture: begun further left where they would leave it, and in the box at its upper edge.
    x = max(0.0, min(x0, width - 0.6 * size * len(label)))
    y = y0 - size / 5 if y0 > 1.2 * size else y0 + size
    return (
        f'<g class="{"kept" if kept else "unused"}">'
        f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"/>'
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}">{escape(label)}</text></g>'
    )


def _spoken(tag: str) -> str:
    return tag.replace("_", " ")


def _name(tag: str) -> str:
    """Of a tag as the place that links lead to."""
    return f"tag-{tag}"
