"""The paper's figures, from targets.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("targets.yaml")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One row of one of the paper's tables."""

    table: str
    protocol: str
    scores: dict[str, float]
    incomparable: Mapping[str, Any] = field(default_factory=dict)
    """`scores` that are never compared, and `because` of what."""
    samples: int | dict[str, int] | None = None
    """Behind every score, or behind each; None: whatever the protocol's complete set has."""
    fingerprints: dict[str, str] | str | None = None
    """Of the prompts behind each score, or behind all; None: the protocol has no prompts, its name says all."""

    def samples_of(self, score: str) -> int | None:
        return self.samples.get(score) if isinstance(self.samples, dict) else self.samples

    def fingerprint_of(self, score: str) -> str | None:
        return self.fingerprints.get(score) if isinstance(self.fingerprints, dict) else self.fingerprints


@cache
def load() -> dict[str, dict[str, Target]]:
    """targets.yaml: benchmark -> name of a row -> target."""
    import yaml

    tables = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        benchmark: {name: Target(table=table["table"], **row) for name, row in table["rows"].items()}
        for benchmark, table in tables.items()
    }


def rows(benchmark: str) -> list[str]:
    """Names of the paper's rows for a benchmark; none where it has no figures."""
    return list(load().get(benchmark, {}))


def find(benchmark: str, row: str | None) -> Target | None:
    """The row of that name; without a name, the only one there is."""
    candidates = load().get(benchmark, {})
    if row is None and len(candidates) == 1:
        return next(iter(candidates.values()))
    return candidates.get(row or "")
