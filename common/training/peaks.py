"""What GPUs can do at most. Light on purpose: command lines name them."""

from __future__ import annotations

# Dense bfloat16 peaks in operations per second, from the vendors' data sheets; the first name that fits counts.
PEAKS = (
    ("B200", 2.25e15),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10", 125e12),
    ("RTX 4090", 165e12),
    ("MI300X", 1307e12),
)


def peak_of(name: str) -> float:
    """Operations per second of a GPU by its name in `PEAKS`; raises `KeyError` if it is not there."""
    return dict(PEAKS)[name]
