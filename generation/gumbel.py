"""From logits to a code, by numbers that no batch, process or device changes.

What is notable here: there is no generator with a state. The random number of a code is a hash of (the picture's key,
the step, the code), computed where it is needed, so a picture does not depend on which others are drawn beside it. The
draw adds Gumbel noise and takes the largest: unlike a draw by cumulated probabilities it keeps its result when logits
move by a rounding error, unless two codes were as close as that.

Legend: B pictures, K codes, k candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.data.order import derive_key
from generation.sampling import Sampling

# SplitMix64 (Steele, Lea and Flood, 2014), its constants as signed numbers; int64 products wrap around.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def picture_key(seed: int, prompt: str, number: int) -> int:
    """The key of one picture's random numbers, a signed 64-bit number.

    Args:
        prompt: as runs of white space make no difference to the model, they make none here.
        number: of the picture among those of its prompt, from 0.
    """
    # As bytes: how Python writes a text depends on the Unicode tables of its version.
    words = " ".join(prompt.split()).encode("utf-8", "replace").hex()
    key = derive_key(seed, "picture", words, number)
    return key - (1 << 64) if key >> 63 else key


def draw(logits: Tensor, sampling: Sampling, keys: Tensor, step: Tensor) -> Tensor:
    """One code for each picture.

    Args:
        logits: (B, K) float32.
        keys: (B,) int64, see `picture_key`.
        step: (1,) int64, the code's place in the picture.

    Returns:
        (B,) int64.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    scores = logits / sampling.temperature
    codes = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    if sampling.top_k is not None or sampling.top_p < 1:
        scores, codes = scores.topk(sampling.top_k or logits.shape[1], dim=-1)  # largest first
    if sampling.top_p < 1:
        likelihood = scores.softmax(-1)
        before = likelihood.cumsum(-1) - likelihood  # 0 for the first, which so always stays
        scores = scores.masked_fill(before >= sampling.top_p, -torch.inf)
    best = (scores + gumbel(keys, step, codes)).argmax(-1, keepdim=True)
    return codes.gather(1, best)[:, 0]


def gumbel(keys: Tensor, step: Tensor, codes: Tensor) -> Tensor:
    """Standard Gumbel noise (B, k) float32 for each of `codes` (B, k)."""
    bits = _mix(_mix(keys + (step + 1) * _GOLDEN)[:, None] + (codes + 1) * _GOLDEN)
    uniform = (_shifted(bits, 32).double() + 0.5).mul_(2.0**-32).float()
    # -log(1 - u): exact for small u, where the noise is largest; u rounded to 1 gives a code that never wins.
    return -(-torch.log1p(-uniform)).log()


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FACTORS[0]
    x = (x ^ _shifted(x, 27)) * _FACTORS[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """int64 shifted to the right as if it had no sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
