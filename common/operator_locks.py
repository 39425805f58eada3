"""Locks that a killed build of an operator has left behind: torch would wait for them for ever, without a word."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

OLD = 300  # seconds; DeepSpeed's operators are built in about one minute
POLL = 10  # seconds


def watch_locks() -> None:
    """Removes what killed builds have left, now and for as long as this process lives: a build that is killed
    beside it leaves a lock too, and one that is too young to judge now is old later."""
    remove_left_locks()
    threading.Thread(target=_watch, name="operator locks", daemon=True).start()


def _watch() -> None:
    while True:
        time.sleep(POLL)
        remove_left_locks()


def remove_left_locks() -> None:
    """Removes each lock that is older than any build takes and that no process of this machine holds; says so on
    stderr. A builder keeps its lock open until it is done (torch's `FileBaton`); the age spares the builds of other
    machines that share the folder, whose processes cannot be seen from here."""
    for lock in sorted(_root().rglob("lock")):
        try:
            age = time.time() - lock.stat().st_mtime
            if age <= OLD or _is_held(lock):
                continue
            lock.unlink()
        except FileNotFoundError:  # released just now
            continue
        except OSError as error:
            _warn(f"{lock}: left by a build that was stopped, and training waits for it: {error.strerror}")
        else:
            _warn(f"{lock}: {age / 60:.0f} minutes old, left by a build that was stopped: removed")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _root() -> Path:
    from torch.utils.cpp_extension import get_default_build_root

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def _is_held(lock: Path) -> bool:
    """Whether a process of this machine has the file open. Where that cannot be known (no /proc), the age decides."""
    there = lock.stat()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = link.stat()
        except OSError:  # ended just now, or another user's
            continue
        if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
            return True
    return False
