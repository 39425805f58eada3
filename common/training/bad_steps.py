"""What the ranks saw of bad steps, and how it is told in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SHOWN = 4  # names in one line

# Why a step was bad; beside these, the name of the engine that dropped it.
LOSS, SPIKE = "loss", "spike"
# After an engine's name: this rank's own gradients were bad, before they met those of other ranks.
HERE = " here"


@dataclass
class Seen:
    """By one rank, since it was last asked.

    Args:
        causes: step -> why it was bad.
        terms: loss term -> its first step that was not finite, and how many micro-steps were not.
        gradients: engine -> parameters whose gradient (this rank's piece of the sum over ranks) was not
            finite. keys: step -> the samples that this rank had in it, as far as they are known.
    """

    causes: dict[int, set[str]]
    terms: dict[str, tuple[int, int]]
    gradients: dict[str, list[str]]
    keys: dict[int, list[str]]


def told(causes: Mapping[int, set[str]], ranks: Sequence[Seen]) -> str:
    """One line: which steps, which engine dropped them, what was not finite, where, and with which samples.

    Args:
        causes: of the bad steps, over all ranks.
    """
    every = set().union(*causes.values())
    engines = sorted(every - {LOSS, SPIKE})
    steps, by = some(map(str, sorted(causes))), " and ".join(engines)
    parts = [f"step {steps}: dropped by {by}" if engines else f"step {steps}: bad"]
    if SPIKE in every:
        parts.append("the loss is a spike")
    for rank, seen in enumerate(ranks):
        if seen.terms:
            first = min(step for step, _ in seen.terms.values())
            parts.append(f"loss {some(sorted(seen.terms))} not finite on rank {rank} (first at step {first})")
    for engine in engines if SPIKE not in every else ():
        where = [
            str(rank)
            for rank, seen in enumerate(ranks)
            if any(engine + HERE in c for c in seen.causes.values())
        ]
        names = list(dict.fromkeys(name for seen in ranks for name in seen.gradients.get(engine, ())))
        born = f" (from rank {some(where)})" if where else ""
        parts.append(f"gradients of {engine} not finite{born}: {some(names) if names else 'their norm'}")
    for rank, seen in enumerate(ranks):
        guilty = {step for step, found in seen.causes.items() if found - set(engines)}
        keys = [key for step in sorted(guilty) for key in seen.keys.get(step, ())]
        if keys:
            parts.append(f"samples on rank {rank}: {some(keys)}")
    return "; ".join(parts)


def some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
