"""When a process of an extraction gives up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_generator

from common.errors import UserError
from generation.codes.facts import CodeFacts
from generation.codes.worker import Worker


def test_one_bad_tar_of_many_ends_nothing(tmp_path: Path) -> None:
    """This process meets a tar of 10,000 damaged pictures first; of two million, 20,000 may be damaged."""
    (tmp_path / "images").mkdir()
    data = tiny_generator.recipe(tmp_path, tmp_path / "run", "data.max_corrupt_share=0.01").data
    facts = CodeFacts("a" * 64, 32, (4, 4), 16, "center", "fp32")
    sources: Any = [SimpleNamespace(source=range(1_500_000)), SimpleNamespace(source=range(500_000))]
    worker = Worker(sources, facts, None, data, 32, None)  # type: ignore[arg-type]
    worker._corrupt.add(["bad.tar/0: truncated"] * 10_000, 10_000)
    worker._corrupt.check()
    worker._corrupt.add(["bad.tar/0: truncated"] * 10_001, 10_001)
    with pytest.raises(UserError, match="20001 of 20001 images could not be read"):
        worker._corrupt.check()
