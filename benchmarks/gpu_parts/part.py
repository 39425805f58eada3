"""The process of one part: its arguments, its rows as JSON, and what became of it as exit status."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.schedule import OUT_OF_MEMORY
from benchmarks.measure import device_name

Row = dict[str, Any]
"""`what`; where there is one, `batch`, `unit`, `per_second`, `ms`, `mfu`, `memory_gib`, `waiting`, `note`, `failed`."""


@dataclass(frozen=True)
class Request:
    """What a part is asked for.

    Args:
        variant: which of several that the part knows.
        check: tiny sizes, on whatever device there is.
        shrink: the batch is divided by it.
    """

    variant: str = ""
    check: bool = False
    shrink: int = 1


def run(measure: Callable[[Request], list[Row]]) -> None:
    """Parse the arguments, call `measure`, and write rows or error; exits with 1 if anything failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", default="")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    status, result = 0, {}
    try:
        rows = measure(Request(options.variant, options.check, options.shrink))
        failed = [f"{row['what']}: {row['failed']}" for row in rows if "failed" in row]
        result = {"device": device_facts(), "rows": rows}
        if failed:
            status, result["error"] = 1, "; ".join(failed)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        result = {"error": f"{type(error).__name__}: {lines[0]}"[:300]}
        status = OUT_OF_MEMORY if type(error).__name__ == "OutOfMemoryError" else 1
    options.result.write_text(json.dumps(result), encoding="utf-8")
    sys.exit(status)


def device_facts() -> dict[str, Any]:
    """Name, and on a GPU memory and compute capability."""
    import torch

    if not torch.cuda.is_available():
        return {"name": device_name()}
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": device_name(),
        "memory_gib": round(facts.total_memory / 2**30, 1),
        "compute_capability": f"{facts.major}.{facts.minor}",
    }
