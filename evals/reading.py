"""What is written in a picture, as a program reads it: one contract over two OCR engines.

    open_reader("auto").read(picture)

`rapidocr` (arXiv 2009.09941 and its successors, as ONNX; the package brings its models) reads words of 8 px and
smaller, in a second or so. `tesseract` is Debian's `tesseract-ocr`, a program beside Python: faster, and blinder where
letters are small. `auto` takes the first of the two that is there.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image

from common.data.images import open_image
from common.errors import UserError, refusing

Engine = Literal["rapidocr", "tesseract"]
ReaderName = Literal["auto", "rapidocr", "tesseract"]
HOW_TO_GET = {
    "rapidocr": "bash scripts/setup.sh ocr",
    "tesseract": "apt-get install tesseract-ocr",
}
SHORTEST = 512  # px: tesseract is shown no smaller pictures, since its letters want a height of 20 px or more
SECONDS = 120  # until tesseract counts as stuck


class Reader(Protocol):
    """What reads pictures. `identity`: plain values from which everything that it reads follows."""

    identity: dict[str, Any]

    def read(self, picture: Image.Image) -> str:
        """All text in a picture of any mode and size, in reading order, words apart by one space; may be empty."""


def open_reader(name: ReaderName = "auto") -> Reader:
    """The engine of that name; `auto`: the first that is there.

    Raises:
        UserError: it is not there, and how to get it; or `name` is none of them.
    """
    if name not in get_args(ReaderName):
        raise UserError(f"reader: expected one of {', '.join(get_args(ReaderName))}, found {name!r}")
    engines: dict[str, Callable[[], Reader]] = {"rapidocr": RapidOcr, "tesseract": Tesseract}
    for engine in get_args(Engine) if name == "auto" else (name,):
        if is_there(engine):
            return engines[engine]()
    if name == "auto":
        ways = " or ".join(f"`{how}`" for how in HOW_TO_GET.values())
        raise UserError(f"nothing here reads text in pictures (OCR): {ways} brings what does")
    raise UserError(f"the OCR engine {name} is not installed here: `{HOW_TO_GET[name]}` brings it")


def is_there(engine: Engine) -> bool:
    """Whether an engine is installed; nothing is loaded."""
    if engine == "tesseract":
        return shutil.which("tesseract") is not None
    return all(find_spec(module) is not None for module in ("rapidocr", "onnxruntime"))


class RapidOcr:
    """PP-OCR's detector and recogniser, with the models of the installed package; as many threads as torch takes."""

    def __init__(self) -> None:
        with refusing(f"rapidocr: cannot be loaded; `{HOW_TO_GET['rapidocr']}` installs what fits"):
            from rapidocr import RapidOCR

            threads = int(os.environ.get("OMP_NUM_THREADS") or -1)  # -1: all cores
            self._engine = RapidOCR(
                params={
                    "Global.log_level": "error",  # it says on every start which files it opens
                    "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                    "EngineConfig.onnxruntime.inter_op_num_threads": threads,
                }
            )
        versions = {package: metadata.version(package) for package in ("rapidocr", "onnxruntime")}
        self.identity: dict[str, Any] = {"name": "rapidocr", "versions": versions}

    def read(self, picture: Image.Image) -> str:
        """See `Reader.read`."""
        bgr = np.ascontiguousarray(np.asarray(open_image(picture))[:, :, ::-1])  # as OpenCV has it
        found: Any = self._engine(bgr)  # of another type for each part of it that is switched off
        return _spaced(found.txts or ())


class Tesseract:
    """Debian's tesseract with its English model, called once a picture: sparse text (page segmentation mode 11)."""

    def __init__(self) -> None:
        version = _run(["tesseract", "--version"], b"").split("\n", 1)[0].removeprefix("tesseract ")
        self.identity: dict[str, Any] = {"name": "tesseract", "version": version, "shortest": SHORTEST}

    def read(self, picture: Image.Image) -> str:
        """See `Reader.read`."""
        shown = open_image(picture)
        factor = -(-SHORTEST // min(shown.size))
        if factor > 1:
            shown = shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.BICUBIC)
        encoded = io.BytesIO()
        shown.save(encoded, format="PNG")
        command = ["tesseract", "stdin", "stdout", "-l", "eng", "--psm", "11", "--dpi", "70"]
        return _spaced(_run(command, encoded.getvalue()).split())


def _run(command: list[str], given: bytes) -> str:
    """What a program prints.

    Raises:
        UserError: it fails, and what it says of that.
    """
    with refusing(command[0], OSError, subprocess.SubprocessError):
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS)
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise UserError(f"{command[0]}: {said[:500] or f'exit status {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")


def _spaced(words: Any) -> str:
    return " ".join(" ".join(words).split())
