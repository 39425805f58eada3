"""Who is at work on what, among processes that share nothing but a file system.

    LEASES/NAME.0      made by one process (O_EXCL), which touches it every few seconds as long as it lives
    LEASES/NAME.1      made by the one that found NAME.0 untouched for `stale` seconds, and so on

What is notable here: a lease is never taken out of another's hands, the next one is made beside it, so two that find
the same lease stale cannot both have it. Ages are told by the file system's own clock, that of a file touched now,
since the clocks of nodes differ. A lease saves work and guards nothing: who lost one while it was stopped goes on, and
writes the same bytes.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from common.files import writing

STALE = 120.0  # seconds; NFS may show a file's time up to 60 s late (acregmax)
BEATS = 8  # touches within them


class Leases:
    """The leases of one process. While any is held, a thread touches them.

    Args:
        folder: where they lie; made if it is not there.
        stale: seconds without a touch after which its holder counts as dead; the same in all processes.

    Raises:
        UserError: nothing can be written there.
    """

    def __init__(self, folder: Path, stale: float = STALE) -> None:
        self.folder, self.stale = folder, stale
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._held: dict[str, tuple[int, int]] = {}  # name -> descriptor, generation
        self._lock, self._over = threading.Lock(), threading.Event()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._clock = folder / f".clock.{self.holder}"
            self._clock.touch()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()

    def take(self, name: str) -> bool:
        """Whether this process has it now: nobody had it, or its holder is dead.

        Raises:
            UserError: nothing can be written there.
        """
        generation = 0
        while self._path(name, generation).exists():
            generation += 1
        if generation and not self._is_stale(self._path(name, generation - 1)):
            return False
        path = self._path(name, generation)
        try:
            with writing(path):
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
                os.write(descriptor, f"{self.holder}\n".encode())
        except Exception as error:
            if isinstance(error.__cause__, FileExistsError):  # another process was faster
                return False
            raise
        with self._lock:
            self._held[name] = descriptor, generation
        return True

    def give_back(self, name: str) -> None:
        """The work is done, or left to others. Who was taken for dead meanwhile leaves it to its heir; of one's own and
        one's ancestors' the own goes last, so that there is always one that tells."""
        with self._lock:
            descriptor, generation = self._held.pop(name)
        os.close(descriptor)
        if not self._path(name, generation + 1).exists():
            for number in range(generation + 1):
                self._path(name, number).unlink(missing_ok=True)

    def living(self) -> list[str]:
        """Who holds a lease and is alive, this process left out."""
        holders = set()
        for path in self.folder.glob("[!.]*"):
            with suppress(OSError):
                if not self._is_stale(path):
                    holders.add(path.read_text(encoding="utf-8").strip())
        return sorted(holders - {self.holder, ""})

    def forget(self, names: Iterable[str]) -> None:
        """Remove what the dead have left of work that is done, whoever did it, and of themselves."""
        done = set(names)
        for path in self.folder.iterdir():
            if path.name.rpartition(".")[0] in done or (
                path.name.startswith(".clock.") and self._is_stale(path)
            ):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for name in list(self._held):
            self.give_back(name)
        self._clock.unlink(missing_ok=True)

    def __enter__(self) -> Leases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{name}.{generation}"

    def _is_stale(self, path: Path) -> bool:
        """Whether nobody has touched it for too long; not so if it is gone meanwhile."""
        with suppress(FileNotFoundError):
            touched = path.stat().st_mtime
            self._clock.touch()
            return self._clock.stat().st_mtime - touched > self.stale
        return False

    def _beat(self) -> None:
        while not self._over.wait(self.stale / BEATS):
            with self._lock, suppress(OSError):  # a disk that is away for a moment
                for descriptor, _ in self._held.values():
                    os.utime(descriptor)
