"""Prompts that others publish: downloaded once, kept in the cache, and never part of this repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

from common.files import cache_file, whole_cache
from evals.preflight import Need, hub_answers


def kept_at(url: str) -> Path:
    """Where a downloaded file is."""
    return cache_file("downloads", url, suffix=PurePosixPath(url).suffix)


def need(url: str, is_right: Callable[[bytes], bool], what: str, option: str) -> Need:
    """For preflight: the file of `url` at `kept_at(url)`, downloaded where it is not there and the hub answers.

    Args:
        is_right: whether a content is what it should be.
        option: the command-line option that names a copy.
    """
    there = kept_at(url).is_file() or (hub_answers() and _download(url, is_right))
    return Need(what, there, f"download {url}\nand give its path as {option}")


def _download(url: str, is_right: Callable[[bytes], bool], seconds: float = 10.0) -> bool:
    try:
        with urlopen(url, timeout=seconds) as answer:
            content = answer.read()
    except (OSError, ValueError):
        return False
    if not is_right(content):
        return False
    with whole_cache(kept_at(url)) as file:
        file.write(content)
    return True
