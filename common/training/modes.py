"""Train or eval mode, as a state that is borrowed and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode inside; afterwards each of its parts is in the mode it was found in, also after an
    error.

    A part's own mode: a frozen network inside a model that trains may stand in eval mode, and stays so.
    """
    found = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in found.items():
            part.training = training
