"""Files that others publish: downloaded once, checked, kept in the cache, and never part of this repository.

What is notable here: a download that broke off goes on where it was, in this call or in the next one, and nothing is
kept under its name before its hash is right.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from common.errors import UserError, one_line, refusing
from common.files import cache_file, whole_cache
from evals.preflight import Need, answers, is_offline

ATTEMPTS = 3  # each goes on where the last one broke off
SECONDS = 30.0  # without a byte
BLOCK = 1 << 20

IsRight = Callable[[bytes], bool]
"""Whether a content is what it should be."""


def kept_at(url: str) -> Path:
    """Where a downloaded file is."""
    return cache_file("downloads", url, suffix=PurePosixPath(url).suffix)


def need(url: str, is_right: IsRight, what: str, option: str) -> Need:
    """For preflight: a small file at `kept_at(url)`, downloaded where it is not there and something answers.

    Args:
        option: the command-line option that names a copy.
    """
    how, there = f"download {url}\nand give its path as {option}", kept_at(url).is_file()
    if not there and not is_offline() and answers(url):
        try:
            there = download(url, is_right).is_file()
        except UserError as error:
            how = f"{error}\n{how}"
    return Need(what, there, how)


def download(url: str, is_right: IsRight) -> Path:
    """The file of `url`, downloaded with a bar where it is not kept yet.

    Raises:
        UserError: nothing answers, it is not there, it broke off (the same call goes on), or it is another file.
    """
    return made_once(kept_at(url), lambda: _download(url, is_right))


def made_once(place: Path, make: Callable[[], None]) -> Path:
    """A file or folder of the cache, made where it is not there, by one process of each machine; the others wait."""
    if not place.exists():
        if os.environ.get("LOCAL_RANK", "0") == "0":
            make()
        while not place.exists():  # where the one that makes it fails, the launcher ends this one
            time.sleep(0.2)
    return place


def _download(url: str, is_right: IsRight) -> None:
    kept = kept_at(url)
    part = kept.with_suffix(".part")
    with refusing(f"{part}: cannot be written; set VQRAE_CACHE to a folder that can be", OSError):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    problem = ""
    for _ in range(ATTEMPTS):
        problem = _go_on(url, part)
        if not problem:
            break
    if problem:
        raise UserError(f"{url}: cannot be downloaded: {problem}")
    if not is_right(part.read_bytes()):
        part.unlink()
        raise UserError(f"{url}: cannot be downloaded: what came is another file: its hash differs")
    with whole_cache(kept) as file, part.open("rb") as source:
        shutil.copyfileobj(source, file)
    part.unlink()


def _go_on(url: str, part: Path) -> str:
    """Append what is missing to `part`; returns what went wrong, empty if all of it is there."""
    from tqdm import tqdm

    start = part.stat().st_size
    try:
        with urlopen(Request(url, headers={"Range": f"bytes={start}-"}), timeout=SECONDS) as answer:
            start = start if answer.status == 206 else 0  # a server that knows no ranges sends all of it
            length = answer.headers.get("Content-Length")
            whole = start + int(length) if length else None
            bar = tqdm(
                total=whole, initial=start, unit="B", unit_scale=True, desc=PurePosixPath(url).name[:40]
            )
            with bar, part.open("ab" if start else "wb") as file:
                while block := answer.read(BLOCK):
                    bar.update(file.write(block))
    except HTTPError as error:
        if error.code == 416:  # nothing is missing: the hash decides
            return ""
        return f"HTTP {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        return one_line(error)
    there = part.stat().st_size
    if whole is not None and there < whole:
        return f"broke off after {there:,} of {whole:,} bytes; the same command goes on from there"
    return ""
