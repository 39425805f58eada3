"""The hot paths on the device against the CPU: a row for each, with what was found or how it differs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu_parts import checks_language, checks_tokenizer
from benchmarks.gpu_parts.part import Request, Row, run

CHECKS = (*checks_tokenizer.CHECKS, *checks_language.CHECKS)


def measure(request: Request) -> list[Row]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # torch's default rounds the inputs of convolutions to 10 bits
    return [result(check, device, request.check) for check in CHECKS]


def result(check: Callable[[torch.device, bool], str], device: torch.device, small: bool) -> Row:
    """One row: what the check says that it found, or how it failed."""
    torch.manual_seed(0)
    what = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
    try:
        return {"what": what, "note": check(device, small)}
    except Exception as error:
        return {"what": what, "failed": (f"{type(error).__name__}: {error}".splitlines())[0][:200]}


if __name__ == "__main__":
    run(measure)
