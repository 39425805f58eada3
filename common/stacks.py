"""Where the main threads of a run's processes are, in words."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
WAITING = ("torch/distributed/", "deepspeed/comm/")
"""What the path of a frame holds in which a process waits for others."""
SHOWN = 4  # places in one line


def place_of_main_thread() -> list[str]:
    """The stack of this process's main thread, innermost first: `PATH:LINE FUNCTION` and, so that a loop is seen to
    move, `@INSTRUCTION`."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    places = []
    while frame is not None:
        code = frame.f_code
        places.append(f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_name}@{frame.f_lasti}")
        frame = frame.f_back
    return places


def describe_stand_still(stacks: dict[int, list[str]]) -> str:
    """Who stands where, those first that do not wait for others.

    Args:
        stacks: of each rank, as `place_of_main_thread` gives it.
    """
    at: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for rank, stack in stacks.items():
        waits = any(part in place for place in stack[:4] for part in WAITING)
        at[waits, _words(stack)].append(rank)
    told = []
    for (waits, words), ranks in sorted(at.items(), key=lambda item: (item[0][0], len(item[1]))):
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:8]))}"
        more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
        told.append(f"{who}{more}: {'waiting in' if waits else 'at'} {words}")
    return "; ".join(told[:SHOWN])


def _words(stack: list[str]) -> str:
    """The innermost place, and the innermost of ours above it."""
    if not stack:
        return "nowhere"
    shown = [stack[0]]
    shown += [place for place in stack[1:] if place.startswith(_OURS)][:1]
    return " in ".join(place.partition("@")[0] for place in shown)


_OURS = ("common/", "tokenizer/", "understanding/", "generation/", "evals/")


def _short(path: str) -> str:
    for root in (f"{ROOT}/.venv/", f"{ROOT}/"):
        path = path.removeprefix(root)
    return path.partition("site-packages/")[2] or path
