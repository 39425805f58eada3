"""GenEval's page.html: every picture, what was found in it, and why it passed or failed.

What is notable here: pictures stay where they are and load as they come into view, and boxes are drawn over them by
the browser, so the page of 2,212 pictures is one small file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from common.files import write_text
from evals.bootstrap import Interval
from evals.detectors.detection import Detection
from evals.geneval.detections import Found
from evals.geneval.prompts import Picture
from evals.geneval.rules import Verdict

Judged = tuple[Picture, Found, Verdict]

STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
h2 { margin: 1.5em 0 .3em } h3 { font-size: 1em; margin: 1em 0 .3em }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
.row { display: flex; flex-wrap: wrap; gap: 10px }
figure { margin: 0; width: 220px; border-top: 5px solid #c33 } figure.passed { border-color: #2a2 }
figure div { position: relative } figure img { width: 100%; display: block; image-rendering: pixelated }
img.large { image-rendering: auto !important }
svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }
rect { fill: none; stroke: #0ff; stroke-width: 2; vector-effect: non-scaling-stroke }
.unused rect { stroke: #fff; stroke-dasharray: 3; opacity: .7 }
text { fill: #000; stroke: #0ff; stroke-width: .25em; paint-order: stroke } .unused text { stroke: #fff; opacity: .7 }
figcaption { font-size: 12px; padding-top: 3px }
body:has(#only-failed:checked) .passed, body:has(#only-passed:checked) figure:not(.passed) { display: none }
body:has(#no-boxes:checked) svg { display: none }
"""


def write_page(
    path: Path,
    title: str,
    scores: Mapping[str, float],
    intervals: Mapping[str, Interval],
    judged: Sequence[Judged],
) -> None:
    """Write the page; `judged` stands prompt after prompt, and links are relative to the page's folder.

    Raises:
        UserError: it cannot be written.
    """
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{score:.3f}<td>{low:.3f} to {high:.3f}"
        for name, score, (low, high) in ((name, score, intervals[name]) for name, score in scores.items())
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<table><tr><th>score<th>share<th>95% of resampled prompts{rows}</table>",
        '<p><label><input type="radio" name="show" checked> all</label> '
        '<label><input type="radio" name="show" id="only-failed"> failed</label> '
        '<label><input type="radio" name="show" id="only-passed"> passed</label> '
        '<label><input type="checkbox" id="no-boxes"> without boxes</label>. '
        "Dashed: what the rules did not look at: too unsure, or one too many.</p>",
    ]
    tag = None
    for prompt, pictures in groupby(judged, key=lambda one: one[0].prompt):
        if prompt.metadata["tag"] != tag:
            tag = prompt.metadata["tag"]
            body.append(f"<h2>{escape(tag)}</h2>")
        body.append(f'<h3>{prompt.number}. {escape(prompt.text)}</h3><div class="row">')
        body += [_figure(one, path.parent) for one in pictures]
        body.append("</div>")
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n",
    )


def _figure(judged: Judged, folder: Path) -> str:
    picture, found, verdict = judged
    width, height = found.size
    kept = {id(one) for group in verdict.kept.values() for one in group}
    # Of what was not kept, only what nearly was: a detector's hundredth guess hides the picture.
    drawn = [one for one in found.detections if id(one) in kept or one.score > 0.1]
    boxes = "".join(_box(one, id(one) in kept, max(width, height) / 16) for one in drawn)
    source = quote(os.path.relpath(picture.path, folder).replace(os.sep, "/"))
    kind = "passed" if verdict.correct else "failed"
    large = ' class="large"' if min(width, height) >= 128 else ""
    reasons = "; ".join(verdict.reasons) or "as asked for"
    return (
        f'<figure class="{kind}"><div><img{large} loading="lazy" src="{source}" width="{width}" height="{height}" '
        f'alt="{escape(picture.prompt.text)}"><svg viewBox="0 0 {width} {height}">{boxes}</svg></div>'
        f"<figcaption>{kind}: {escape(reasons)}</figcaption></figure>"
    )


def _box(one: Detection, kept: bool, size: float) -> str:
    x0, y0, x1, y1 = (float(value) for value in one.box)
    color = f"{one.color} " if isinstance(one.color, str) else ""
    return (
        f'<g class="{"kept" if kept else "unused"}">'
        f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}"/>'
        f'<text x="{x0:g}" y="{y0 - size / 5:g}" font-size="{size:g}">'
        f"{escape(color + one.name)} {one.score:.2f}</text></g>"
    )
