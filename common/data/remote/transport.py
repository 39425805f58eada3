"""One request to where a URL points, through fsspec: what it is, some of its bytes, what lies below it.

Over HTTP the requests are our own, made with the session of fsspec's file system (so its configuration holds): they
look at the answer's status, range and version, which `cat_file` hides. What else fsspec knows is asked through its own
methods. Nothing here tries again, or remembers anything but the connections of this process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from common.data.remote.retries import ShortAnswer, shown
from common.errors import UserError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

TIMEOUT = 60.0  # s for a whole answer, so that one which drips is given up too
CONNECT_TIMEOUT, SILENCE = 10.0, 20.0  # s
_VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "blob_id",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
)
_EXTRAS = {"s3": "bash scripts/setup.sh s3", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}


class Stat(NamedTuple):
    """A file's size in bytes, and a text that is another one once its content may be another."""

    size: int
    version: str


def protocol_of(url: str) -> str:
    return url.partition("://")[0].lower()


def ask_stat(url: str) -> Stat:
    if protocol_of(url) in ("http", "https"):
        return _ask(url, _http_stat)
    info = _system(url).info(url)
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return Stat(int(info["size"]), version)


def ask_bytes(url: str, start: int, size: int, known: Stat) -> bytes:
    """Raises:
    UserError: it is another file than `known` says.
    ShortAnswer: fewer bytes came; what a client raises for other failures passes as it is.
    """
    if protocol_of(url) in ("http", "https"):
        content = _ask(url, _http_bytes, start, size, known)
    else:
        content = _system(url).cat_file(url, start=start, end=start + size, timeout=TIMEOUT)
        _same(url, known, ask_stat(url))
    if len(content) != size:
        raise ShortAnswer(f"{len(content)} bytes came of {size}")
    return bytes(content)


def ask_whole(url: str) -> bytes:
    """All of a small file in one request, whether its server knows ranges or not."""
    if protocol_of(url) in ("http", "https"):
        return bytes(_ask(url, _http_whole))
    return bytes(_system(url).cat_file(url, timeout=TIMEOUT))


def ask_list(pattern: str, suffixes: Sequence[str]) -> list[str]:
    """URLs of the files that a pattern with stars names, or that lie below it."""
    system = _system(pattern)
    found = system.glob(pattern) if "*" in pattern else system.find(pattern)
    urls = [system.unstrip_protocol(path) for path in found]
    return [url for url in urls if "*" in pattern or urlsplit(url).path.endswith(tuple(suffixes) or "")]


def _system(url: str) -> Any:
    return _system_of(os.getpid(), protocol_of(url))


@lru_cache(maxsize=16)
def _system_of(process: int, protocol: str) -> Any:
    """fsspec's file system of this process: connections and the thread that serves them do not survive a fork."""
    import fsspec
    from fsspec.config import conf

    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        # Retries are ours: counted, and told.
        config = {"connect_timeout": CONNECT_TIMEOUT, "read_timeout": SILENCE, "retries": {"max_attempts": 0}}
        options["config_kwargs"] = {**config, **conf.get("s3", {}).get("config_kwargs", {})}
    try:
        system = fsspec.filesystem(protocol, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        raise UserError(f"{protocol}://: a package is missing" + (f": {extra}" if extra else "")) from error
    except ValueError as error:
        raise UserError(f"{protocol}://: no protocol that is known") from error
    if protocol in ("s3", "s3a"):
        system.retries = 1
    return system


def _ask(url: str, request: Any, *arguments: Any) -> Any:
    from fsspec.asyn import sync

    system = _system(url)
    return sync(system.loop, request, system, url, *arguments, timeout=TIMEOUT + CONNECT_TIMEOUT)


async def _http_stat(system: Any, url: str) -> Stat:
    async with await _get(system, url, 0, 1) as answer:
        if answer.status == 206:  # else all of the file would follow
            await answer.read()
        size = _total(answer)
        if size is None:
            raise UserError(f"{shown(url)}: the server does not say how large it is")
        return Stat(size, _version(answer.headers))


async def _http_bytes(system: Any, url: str, start: int, size: int, known: Stat) -> bytes:
    async with await _get(system, url, start, size) as answer:
        if answer.status != 206 and (start, size) != (0, known.size):
            raise UserError(f"{shown(url)}: the server gives whole files only, no ranges of bytes")
        _same(url, known, Stat(_total(answer) or known.size, _version(answer.headers)))
        return await answer.read()


async def _http_whole(system: Any, url: str) -> bytes:
    async with await _get(system, url) as answer:
        return await answer.read()


async def _get(system: Any, url: str, start: int = 0, size: int = 0) -> ClientResponse:
    """An answer whose status is a good one; a range of bytes is asked for where `size` is not 0."""
    from aiohttp import ClientTimeout

    session = await system.set_session()
    headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if size:
        headers["Range"] = f"bytes={start}-{start + size - 1}"
    timeout = ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE)
    options = {"timeout": timeout, **system.kwargs, "headers": headers}
    answer: ClientResponse = await session.get(system.encode_url(url), **options)
    if answer.status == 416 and _total(answer) == 0:  # no range of an empty file
        return answer
    answer.raise_for_status()
    return answer


def _total(answer: ClientResponse) -> int | None:
    """Bytes of the whole file."""
    total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if not total and answer.status == 200:
        total = answer.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _same(url: str, known: Stat, found: Stat) -> None:
    if found != known:
        raise UserError(
            f"{shown(url)}: changed while it was in use ({known} before, {found} now); start again"
        )
