"""Which answers were cut off at the most tokens they may have: whoever reads the scores should know how many."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

Message = Sequence[dict[str, str]]
"""A question as VLMEvalKit puts it to a model: parts of `type` and `value`."""


class CutAnswers:
    """Notes in `folder`, a file for each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, message: Message, dataset: str | None) -> None:
        asked = hashlib.sha256(json.dumps([dict(part) for part in message]).encode()).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{os.environ.get('RANK', '0')}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"data": dataset, "asked_sha256": asked}) + "\n")

    def count(self, dataset: str) -> int:
        """Of this run and of those that it goes on from."""
        lines = {line for path in self.folder.glob("*.jsonl") for line in path.read_text().splitlines()}
        return sum(json.loads(line)["data"] == dataset for line in lines)
