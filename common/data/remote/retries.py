"""Requests that fail for a while: made again, later and later, and counted."""

from __future__ import annotations

import logging
import mmap
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np

from common.errors import LONGEST, FailedRead, UserError, one_line

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

ATTEMPTS = 7
FIRST_WAIT, LONGEST_WAIT = (
    0.5,
    30.0,
)  # s; drawn from 0 up to it, so that a thousand readers do not come back at once
TOLD_EACH = 60.0  # s between two lines of a process in the log
SLOTS = 1024
PASSING = frozenset({408, 425, 429})  # statuses of the 400s that a moment later may be another
_CLIENTS = frozenset(
    {
        "aiohttp",
        "aiobotocore",
        "botocore",
        "gcsfs",
        "google",
        "httpx",
        "huggingface_hub",
        "requests",
        "urllib3",
    }
)
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})


class ShortAnswer(OSError):
    """Fewer bytes came than were asked for."""


class Retries:
    """How often this process, and those that were forked from it, have asked again."""

    def __init__(self) -> None:
        # Shared with forked processes, a slot for each: without a lock, which one that is killed would never give back.
        self._slots: np.ndarray = np.frombuffer(mmap.mmap(-1, 8 * SLOTS), dtype=np.int64)
        self._told_at = -TOLD_EACH

    @property
    def number(self) -> int:
        return int(self._slots.sum())

    def count(self, url: str, reason: str) -> None:
        self._slots[os.getpid() % SLOTS] += 1
        if time.monotonic() - self._told_at >= TOLD_EACH:
            self._told_at = time.monotonic()
            log.warning("%s: asked again: %s (retries so far: %d)", shown(url), reason, self.number)


retries = Retries()
_waits = random.Random()  # of its own: what a run draws must not depend on the weather of the network


def retried(url: str, request: Callable[[], Answer], attempts: int | None = None) -> Answer:
    """What `request` returns, once it does.

    Raises:
        UserError: there is no such file or no way in (404, 403 ...), which no waiting mends; names the URL.
        FailedRead: it failed `attempts` times, by default `ATTEMPTS`.
    """
    number = attempts or ATTEMPTS
    for attempt in range(number):
        try:
            return request()
        except UserError:
            raise
        except Exception as error:
            if (refusal := _refusal(error)) is not None:
                raise UserError(f"{shown(url)}: {refusal}") from error
            if not _from_network(error):
                raise
            reason = one_line(error, url)[:LONGEST]
            if attempt + 1 == number:
                raise FailedRead(
                    f"{shown(url)}: download failed {number} times, the last: {reason}"
                ) from error
            retries.count(url, reason)
            time.sleep(_waits.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)))
    raise AssertionError("the last attempt returns or raises")


def shown(url: str) -> str:
    """A URL as it may stand in a log: without the password, or the signature, that may be in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refusal(error: Exception) -> str | None:
    """Why it is of no use to ask again; None where it may be."""
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file (404)"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"no permission ({status or 403}): {one_line(error)[:LONGEST]}"
    if type(error).__name__ in _NO_CREDENTIALS:
        return f"no credentials: {one_line(error)[:LONGEST]}"
    if status is not None and 400 <= status < 500 and status not in PASSING:
        return f"refused ({status}): {one_line(error)[:LONGEST]}"
    return None


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that a client's error, or the one it was made of, carries."""
    while error is not None:
        answer = getattr(error, "response", None)
        status = getattr(error, "status", None) or getattr(answer, "status_code", None)
        if isinstance(answer, dict):  # botocore's
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _from_network(error: Exception) -> bool:
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, (OSError, EOFError)) or bool(kinds & _CLIENTS)
