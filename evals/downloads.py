"""Prompts that others publish: downloaded once, kept in the cache, and never part of this repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.request import urlopen

from common.files import cache_file, whole_cache


def kept_at(url: str) -> Path:
    """Where `have` keeps the file."""
    return cache_file("downloads", url, suffix=PurePosixPath(url).suffix)


def have(url: str, is_right: Callable[[bytes], bool], seconds: float = 10.0) -> bool:
    """Have the file of `url` at `kept_at(url)`; False where it cannot be had, or is not what it should be."""
    if kept_at(url).is_file():
        return True
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
