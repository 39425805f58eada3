"""A web server with ranges, an S3-compatible store, and bad weather before either, all on this machine's loopback.

with web_server(folder) as site, weather(site.url, share=0.2, seed=0) as bad:
    read(f"{bad.url}/train-000.tar")
"""

from __future__ import annotations

import http.client
import http.server
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

KINDS = ("500", "503", "reset", "short", "lie", "slow")
"""What befalls an answer: its status; torn by a reset, or closed, in its middle; less of it under a length that fits;
byte by byte, until the client's patience ends."""
STREAMED = 1 << 16


@dataclass
class Site:
    """Where a server stands, and what it was asked for."""

    url: str
    asked: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # (path, range) -> times it was sent whole
    sent: int = 0  # bytes of bodies
    faults: Counter[str] = field(default_factory=Counter)
    etags: dict[str, str] = field(default_factory=dict)  # a test's own, by path


@contextmanager
def web_server(root: Path, latency: float = 0.0, ranges: bool = True) -> Iterator[Site]:
    """The files of a folder, with `ETag`s and ranges; a folder is a page of links.

    `latency` (s) comes before each answer; without `ranges`, all of a file is sent whatever was asked for.
    """
    site = Site("")

    class Files(_Quiet):
        def do_GET(self) -> None:
            time.sleep(latency)
            name = unquote(urlsplit(self.path).path)
            path = root / name.lstrip("/")
            if path.is_dir():
                links = (
                    f'<a href="{item.name}{"/" * item.is_dir()}">.</a>' for item in sorted(path.iterdir())
                )
                return self.reply(200, "".join(links).encode(), {"Content-Type": "text/html"})
            if not path.is_file():
                return self.reply(404, b"")
            status = path.stat()
            headers = {"ETag": site.etags.get(name, f'"{status.st_mtime_ns:x}-{status.st_size:x}"')}
            wanted = self.headers.get("Range", "") if ranges else ""
            first, last = 0, status.st_size - 1
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
                first, last = int(match[1]), min(int(match[2] or last), last)
                headers["Content-Range"] = (
                    f"bytes {first}-{last}/{status.st_size}"
                    if first <= last
                    else (f"bytes */{status.st_size}")
                )
                if first > last:
                    return self.reply(416, b"", headers)
            with path.open("rb") as file:
                file.seek(first)
                content = file.read(last - first + 1)
            site.asked[name, wanted] += 1
            site.sent += len(content)
            self.reply(206 if match else 200, content, headers)

        do_HEAD = do_GET

    with _serving(Files) as site.url:
        yield site


@contextmanager
def s3_server(buckets: Sequence[str]) -> Iterator[str]:
    """moto's S3, with these buckets; returns its URL. Credentials and endpoint are the caller's to set."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **NOBODY)
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield url
    finally:
        server.stop()


NOBODY = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}


def upload(url: str, bucket: str, files: dict[str, Path]) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **NOBODY)
    for key, path in files.items():
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


@contextmanager
def weather(
    behind: str, share: float, seed: int = 0, kinds: Sequence[str] = KINDS, drip: float = 0.2
) -> Iterator[Site]:
    """A proxy that passes on what it is asked, and lets a share of the answers meet one of `kinds`, each in its turn.

    Which answers is drawn from `seed` and their number. A slow one sends a byte each `drip` s.
    """
    site = Site("")
    draw, lock, turn = random.Random(seed), threading.Lock(), iter(range(1 << 60))
    host, port = urlsplit(behind).hostname or "", urlsplit(behind).port

    class Proxy(_Quiet):
        def do_GET(self) -> None:
            with lock:
                kind = kinds[next(turn) % len(kinds)] if draw.random() < share else ""
            connection = http.client.HTTPConnection(host, port, timeout=60)
            length = int(self.headers.get("Content-Length") or 0)
            connection.request(self.command, self.path, self.rfile.read(length) or None, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            dropped = ("transfer-encoding", "connection", "content-length", "date", "server")
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            if self.command == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length") or "0"
            if kind in ("reset", "short", "lie", "slow") and len(content) < 2:
                kind = "503"  # there is no middle
            if kind:
                with lock:
                    site.faults[kind] += 1
            with suppress(ConnectionError):
                self.befall(kind, answer.status, content, headers)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def befall(self, kind: str, status: int, content: bytes, headers: dict[str, str]) -> None:
            half = content[: len(content) // 2]
            if kind.isdigit():
                self.reply(int(kind), b"bad weather")
            elif kind in ("reset", "short"):
                self.reply(status, half, {**headers, "Content-Length": str(len(content))})
                if kind == "reset":  # closing sends RST, where nothing may linger
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            elif kind == "slow":
                self.reply(status, b"", {**headers, "Content-Length": str(len(content))})
                for byte in content[:100]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(drip)
                self.close_connection = True
            else:
                self.reply(status, half if kind == "lie" else content, headers)

    with _serving(Proxy) as site.url:
        yield site


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that go away in the middle are what this is for


@contextmanager
def _serving(handler: Callable[..., Any]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Variables set inside, and as they were behind."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
