"""GenEval's page.html as a browser lays it out: boxes on the objects, no picture squashed, links that lead on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image, ImageDraw

from evals.detectors.detection import Detection
from evals.geneval import page as geneval_page
from evals.geneval.detections import Found
from evals.geneval.page import Judged, write_page
from evals.geneval.prompts import Picture, Prompt
from evals.geneval.rules import judge
from evals.geneval.wording import in_words

# (width, height) in px: square and small, wide, tall, and one that needs a thumbnail of an odd size.
SIZES = ((32, 32), (640, 360), (300, 451), (512, 512))
# Apart from everything that the page itself draws, also after JPEG.
OBJECTS = {"apple": (230, 20, 160), "bench": (120, 60, 10)}
GEOMETRY = """[...document.querySelectorAll('figure')].map(figure => {
  const place = one => { const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] };
  const img = figure.querySelector('img');
  return {img: place(img), natural: [img.naturalWidth, img.naturalHeight],
          boxes: [...figure.querySelectorAll('rect')].map(place)} })"""


def paint(folder: Path, number: int, size: tuple[int, int]) -> Judged:
    """A picture with an apple at its upper left and a bench at its lower right; an apple alone was asked for, left."""
    width, height = size
    boxes = {
        "apple": (width // 8, height // 8, width // 8 + width // 4, height // 8 + height // 5),
        "bench": (width // 2 + 1, height // 2 + 3, width - width // 10, height - height // 8),
    }
    picture = Image.new("RGB", size, (128, 128, 128))
    for name, (x0, y0, x1, y1) in boxes.items():
        ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), OBJECTS[name])
    path = folder / f"{number:05d}" / "samples" / "0000.png"
    path.parent.mkdir(parents=True)
    picture.save(path)
    place = ["left of" if number % 2 else "right of", 0]
    include = [{"class": "bench", "count": 1}, {"class": "apple", "count": 1, "position": place}]
    metadata = {"tag": "position", "prompt": f"an apple & a <bench> {number}", "include": include}
    found = [Detection(name=name, score=0.95, box=tuple(map(float, box))) for name, box in boxes.items()]  # type: ignore[arg-type]
    picture_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    seen = Found(size, picture_sha256, tuple(found))
    return Picture(Prompt(number, metadata), 0, path), seen, judge(metadata, found)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


def write(folder: Path) -> Path:
    judged = [paint(folder / "pictures # 1", number, size) for number, size in enumerate(SIZES)]
    scores = {"overall": 0.5, "position": 0.5}
    write_page(folder / "page.html", "a & b", scores, dict.fromkeys(scores, (0.25, 0.75)), judged)
    return folder / "page.html"


def off_by(browser: Browser) -> tuple[float, float]:
    """How far box centres are from the centres of what is painted, at most, in px; how much ratios are off, at most."""
    browser.run("document.querySelector('#no-boxes').click()")
    seen = browser.photograph().astype(int)  # of the pictures alone
    browser.run("document.querySelector('#no-boxes').click()")
    distance, squash = 0.0, 0.0
    figures = browser.run(GEOMETRY)
    assert len(figures) == len(SIZES)
    for figure, size in zip(figures, SIZES, strict=True):
        left, top, right, bottom = figure["img"]
        squash = max(squash, abs((right - left) / (bottom - top) / (size[0] / size[1]) - 1))
        assert len(figure["boxes"]) == len(OBJECTS)
        for (x0, y0, x1, y1), color in zip(figure["boxes"], OBJECTS.values(), strict=True):
            window = seen[round(top) : round(bottom), round(left) : round(right)]
            y, x = np.nonzero(np.abs(window - color).max(-1) < 60)
            centre = ((x.min() + x.max() + 1) / 2 + round(left), (y.min() + y.max() + 1) / 2 + round(top))
            distance = max(distance, abs((x0 + x1) / 2 - centre[0]), abs((y0 + y1) / 2 - centre[1]))
    return distance, squash


@pytest.mark.slow
def test_boxes_lie_on_the_objects_at_any_width(browser: Browser, tmp_path: Path) -> None:
    page = write(tmp_path)
    for width in (1200, 260):
        browser.open(page, width)
        distance, squash = off_by(browser)
        assert distance <= 1 and squash < 0.005, width


@pytest.mark.slow
def test_a_style_that_squashes_is_seen(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways to go wrong: a height that does not follow the width, boxes that do not follow the picture."""
    sound = geneval_page.STYLE
    for number, (right, wrong) in enumerate(
        (("height: auto", "height: 150px"), ("svg { position: absolute; inset: 0;", "svg {"))
    ):
        assert right in sound
        monkeypatch.setattr(geneval_page, "STYLE", sound.replace(right, wrong))
        browser.open(write(tmp_path / str(number)), 1200)
        distance, squash = off_by(browser)
        assert (squash > 0.2) if number == 0 else (distance > 10)


@pytest.mark.slow
def test_links_filters_and_thumbnails(browser: Browser, tmp_path: Path) -> None:
    page = write(tmp_path)
    browser.open(page, 1200)
    links = browser.run("[...document.querySelectorAll('a')].map(one => one.getAttribute('href'))")
    inner = [link for link in links if link.startswith("#")]
    assert "#tag-position" in inner and "#scores" in inner
    assert all(browser.run(f"!!document.getElementById({link[1:]!r})") for link in inner)
    browser.open(
        page, 1200, 300
    )  # where a link leads, the heading is seen, and not under what stays at the top
    browser.run("location.hash = '#tag-position'")
    top, bar = (
        browser.run(f"document.querySelector('{one}').getBoundingClientRect().{edge}")
        for one, edge in (("h2", "top"), ("#show", "bottom"))
    )
    assert browser.run("scrollY") > 0 and bar <= top < 200
    full = browser.run("[...document.querySelectorAll('figure a')].map(one => one.pathname)")
    assert len(full) == len(SIZES) and all("pictures%20%23%201/0000" in path for path in full)
    natural = [figure["natural"] for figure in browser.run(GEOMETRY)]
    assert natural == [[32, 32], [256, 144], [170, 256], [256, 256]]
    thumbnails = list((tmp_path / "thumbnails").glob("*.jpg"))
    assert len(thumbnails) == 3 and all(path.stat().st_size < 20_000 for path in thumbnails)
    shown = "[...document.querySelectorAll('figure')].filter(one => one.offsetParent !== null).length"
    titles = "[...document.querySelectorAll('h3')].filter(one => one.offsetParent !== null).length"
    for kind, count in (("failed", 2), ("passed", 2)):
        browser.run(f"document.querySelector('#only-{kind}').click()")
        assert browser.run(shown) == browser.run(titles) == count
    text = browser.run("document.body.textContent")
    assert "the apple should be right of the bench, and is above and left of it" in text
    assert "an apple & a <bench> 0" in text and browser.run("document.scripts.length") == 0


def test_the_page_is_sound_without_a_browser(tmp_path: Path) -> None:
    """Every address is relative and leads to a file; pictures load lazily; nothing is asked of a network."""
    from urllib.parse import unquote

    page = write(tmp_path)
    text = page.read_text()
    addresses = re.findall(r'(?:src|href)="([^"#][^"]*)"', text)
    assert len(addresses) == 2 * len(SIZES) and all((tmp_path / unquote(one)).is_file() for one in addresses)
    assert text.count('loading="lazy"') == len(SIZES) and "http" not in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "thumbnails").iterdir()}
    page.unlink()
    judged = [paint(tmp_path / "again", number, size) for number, size in enumerate(SIZES)]
    write_page(page, "again", {"overall": 1.0}, {"overall": (1.0, 1.0)}, judged)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "thumbnails").iterdir()} == before


def test_every_reason_is_said_in_plain_words() -> None:
    rng = np.random.default_rng(0)
    said, names, colors = set(), ("traffic light", "dog", "bus"), ("red", "light blue")
    places = ("left of", "right of", "above", "below")
    for _ in range(3000):
        first, second = rng.choice(names, 2, replace=False).tolist()
        include: list[dict[str, object]] = [{"class": first, "count": int(rng.integers(1, 4))}]
        include.append({"class": second, "count": 1, "position": [str(rng.choice(places)), 0]})
        if rng.random() < 0.5:
            include[int(rng.integers(2))]["color"] = str(rng.choice(colors))
        metadata = {"tag": "position", "include": include, "exclude": [{"class": first, "count": 3}]}
        found = []
        for _ in range(rng.integers(6)):
            x, y = rng.integers(0, 90, 2).tolist()
            found.append(
                Detection(
                    name=str(rng.choice(names)),
                    score=0.9,
                    box=(x, y, x + 8, y + 8),
                    color=str(rng.choice(colors)),
                )
            )
        verdict = judge(metadata, found)
        words = in_words(metadata, verdict)
        assert len(words) == len(verdict.reasons)
        assert not any("expected" in one or "target" in one or ">=" in one or "<" in one for one in words), (
            words
        )
        said |= {re.sub("|".join((*names, *colors, *places, r"\d+")), "_", one) for one in words}
    assert {
        "_: _ asked for, _ found",
        "_ _ _ asked for, _ _ found",
        "the _ should be _ the _, and is _ it",
        "the _ should be _ the _, and is _ and _ it",
        "the _ should be _ the _, and is on no clear side of it",
        "the _ cannot be _ the _, which is not as asked for",
    } <= said, json.dumps(sorted(said), indent=1)
