"""Text in pictures: every engine that is here reads a rendered word, in whatever form the picture comes."""

from __future__ import annotations

import json
import shutil
from typing import Any, get_args

import pytest
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from evals import reading
from evals.reading import HOW_TO_GET, Engine, open_reader

ENGINES = get_args(Engine)


def written(text: str, height: int = 24, side: int = 160, **colors: str) -> Image.Image:
    """`text` in Pillow's own font, black on white or in `colors` of `ground` and `ink`."""
    picture = Image.new("RGB", (side, side), colors.get("ground", "white"))
    font = ImageFont.load_default(height)
    ImageDraw.Draw(picture).text((12, side // 3), text, font=font, fill=colors.get("ink", "black"))
    return picture


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_reads_what_is_written(engine: Engine) -> None:
    if not reading.is_there(engine):
        pytest.skip(f"{engine} is not installed here: {HOW_TO_GET[engine]}")
    reader = open_reader(engine)
    assert reader.identity["name"] == engine and json.loads(json.dumps(reader.identity)) == reader.identity
    assert reader.read(written("Garden")) == "Garden"
    picture = written("open house", 20, ground="navy", ink="yellow")
    assert reader.read(picture.convert("P")) == "open house"
    two = written("Garden")
    two.paste(written("Window").crop((0, 40, 160, 90)), (0, 100))
    assert reader.read(two) == "Garden Window"  # from top to bottom
    assert reader.read(Image.new("RGB", (160, 160), "white")) == ""
    assert reader.read(Image.new("RGB", (1, 1))) == ""


def test_without_any_engine_a_line_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    for name in reading.get_args(reading.ReaderName):
        with pytest.raises(UserError) as error:
            open_reader(name)
        expected = HOW_TO_GET.values() if name == "auto" else [HOW_TO_GET[name]]
        assert all(how in str(error.value) for how in expected) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="'paddle'"):
        open_reader("paddle")  # type: ignore[arg-type]


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name in ("RapidOcr", "Tesseract"):
        monkeypatch.setattr(reading, name, lambda name=name: opened.append(name))
    there: dict[str, Any] = {"rapidocr": True, "tesseract": True}
    monkeypatch.setattr(reading, "is_there", there.get)
    open_reader()
    there["rapidocr"] = False
    open_reader()
    assert opened == ["RapidOcr", "Tesseract"]


def test_a_program_that_fails_is_one_line() -> None:
    with pytest.raises(UserError, match="no_such_program"):
        reading._run(["no_such_program"], b"")
    with pytest.raises(UserError) as error:
        reading._run(["sh", "-c", "echo 'no such\nlanguage' >&2; exit 1"], b"")
    assert str(error.value) == "sh: no such language"
