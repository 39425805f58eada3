"""A run whose pictures lie on a web server, in bad weather, is the run that has them on its disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from image_sets import make_shards

from benchmarks.loopback import weather, web_server
from common.data.remote import ranges, retries
from common.training.records import read_records
from tokenizer.train import train


@pytest.mark.slow
def test_training_on_shards_of_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(ranges, "BLOCK", 1000)
    pictures = tiny.write_pictures(tmp_path / "pictures")
    path = make_shards(tmp_path / "www", [9, 8]).path
    losses = []
    with (
        web_server(tmp_path / "www") as site,
        weather(site.url, share=0.2, seed=3, kinds=["500", "reset", "short"]) as bad,
    ):
        for name, where in (("disk", path), ("web", path.replace(str(tmp_path / "www"), bad.url))):
            sources = f"data.sources=[{{kind: shards, path: '{where}'}}]"
            train(tiny.tokenizer_recipe(pictures, tmp_path / name, sources))
            losses.append([record["loss"] for record in read_records(tmp_path / name, "train")])
        assert sum(bad.faults.values()) > 0
    assert len(losses[0]) > 1 and losses[0] == losses[1]
