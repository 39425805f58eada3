"""Messages between the processes of a run that do not need the process group: JSON, a line each, over TCP."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any

CONNECTING = 60.0  # seconds


class Link:
    """Messages of JSON, a line each."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self._rest = connection, b""
        self.who: dict[str, Any] = {}
        self._lock = threading.Lock()
        connection.settimeout(CONNECTING)

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def first(self) -> dict[str, Any]:
        """What the other one says to be let in; nothing where that is no message."""
        with suppress(ValueError, OSError):
            while b"\n" not in self._rest and (read := self.socket.recv(1 << 12)):
                self._rest += read
            line, _, self._rest = self._rest.partition(b"\n")
            message = json.loads(line)
            return message if isinstance(message, dict) else {}
        return {}

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """What has come, and whether more can come."""
        try:
            read = self.socket.recv(1 << 16)
        except OSError:
            read = b""
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [json.loads(line) for line in lines], bool(read)

    def close(self) -> None:
        self.socket.close()
