"""A shelf of tiny models and conversations that all tests of understanding share."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf"))
