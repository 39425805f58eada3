"""Locks that a killed build of an operator has left behind: torch waits for them for ever, without a word."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

OLD = 300  # seconds; DeepSpeed's operators are built in about one minute


def warn_of_left_locks() -> None:
    """Say on stderr which locks are older than any build takes, and what to do about them."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in sorted(root.rglob("lock")):
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:  # released just now
            continue
        if age > OLD:
            print(
                f"warning: {lock}: {age / 60:.0f} minutes old, left by a build that was stopped? "
                "If nothing is compiling, delete it: training waits for it",
                file=sys.stderr,
                flush=True,
            )
