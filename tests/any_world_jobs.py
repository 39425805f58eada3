"""What the processes of `benchmarks/any_world.py` do."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

import pair_jobs
import tiny
import tiny_generator
from ledger import losses

from common import dist
from common.files import write_json


def serve(orders: str) -> None:
    """Carry out `ORDERS/0.json`, `1.json`, ... as they come (each a job of this module and its inputs), until one names
    none. Each rank answers in `ORDERS/0_rank0.json`: what it found, or how it failed."""
    dist.start()
    number = 0
    while True:
        order = Path(orders) / f"{number}.json"
        while not order.is_file():
            time.sleep(0.05)
        job, inputs = json.loads(order.read_text())
        if job is None:
            return
        try:
            answer = {"found": globals()[job](**inputs)}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        write_json(order.with_name(f"{number}_rank{dist.rank()}.json"), answer)
        number += 1


def write_shelves(folder: str) -> None:
    """A shelf for each trainer, under its name."""
    tiny.write_pictures(Path(folder) / "tokenizer")
    tiny.write_understanding_shelf(Path(folder) / "understanding")
    tiny_generator.write_shelf(Path(folder) / "generation")


def leg(base: str | None, overrides: list[str], **inputs: Any) -> dict[str, Any]:
    """`pair_jobs.leg`: what it read, the run's losses so far, and a digest of its model.

    Args:
        base: a list of overrides in `tiny`.
    """
    first = getattr(tiny, base) if base else ()
    read = pair_jobs.leg(overrides=[*first, *overrides], **inputs)
    run = Path(inputs["output"])
    model = sorted((run / "model").rglob("*.safetensors"))  # none yet, unless this was the last part
    weights = hashlib.sha256(b"".join(file.read_bytes() for file in model)).hexdigest()
    return {"read": read, "losses": losses(run), "weights": weights}
