"""`vqrae codes`: what it says of codes, decodes, exports and removes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_generator
from PIL import Image

from common.errors import UserError
from generation.codes.leases import Leases
from generation.codes.library import CodeSource
from generation.codes.shard import open_captions, open_shard
from generation.codes.survey import Usage
from generation.extract_codes import extract
from vqrae import cli


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def codes(shelf: Path, tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A folder of codes of two sources, one of which has no captions; and the recipe."""
    sources = [
        {"kind": "folder", "path": str(shelf / "images")},
        {"kind": "folder", "path": str(shelf / "images"), "unconditional": True},
    ]
    config = tiny_generator.recipe(
        shelf, tmp_path / "run", f"data.codes={tmp_path / 'codes'}", f"data.sources={json.dumps(sources)}"
    )
    extract(config, 4, 5)
    yield tmp_path / "codes", config
    open_shard.cache_clear()
    open_captions.cache_clear()


def samples(codes: tuple[Path, Any]) -> list[Any]:
    source = CodeSource.of(codes[0], codes[1].data.sources[0])
    return [source.read(index) for index in range(len(source))]


def test_usage_is_what_entropy_says() -> None:
    assert Usage.of(np.array([5, 5, 0, 5, 5])) == Usage(20, 4, pytest.approx(4.0))
    assert Usage.of(np.array([7, 0])) == Usage(7, 1, pytest.approx(1.0))
    assert Usage.of(np.array([0, 0])) == Usage(0, 0, 0.0)
    assert 1 < Usage.of(np.array([9, 1])).perplexity < 2


def test_inspect_counts_and_decodes(
    codes: tuple[Path, Any], shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    page = tmp_path / "page.png"
    words = ("--model", str(shelf / "vqrae"), "--sheet", str(page), "--samples", "4", "--device", "cpu")
    cli.dispatch(["codes", "inspect", str(codes[0]), *words])
    said = capsys.readouterr().out
    values = np.concatenate([sample.codes.ravel() for sample in samples(codes)])
    used = len(np.unique(values))
    assert f"{shelf}/images: 12 pictures, 12 with a caption; shards: 3\n" in said
    assert f"{shelf}/images (unconditional): 12 pictures; shards: 3\n" in said
    assert f"  192 codes; {used} of 32 used ({100 * used / 32:.1f}%), perplexity " in said
    assert "all 2 sources\n  384 codes; " in said
    with Image.open(page) as sheet:
        assert sheet.width > 4 * 96 and sheet.getextrema() != ((255, 255),) * 3
    other = ("--model", str(shelf / "other_vqrae"), "--sheet", str(page), "--device", "cpu")
    with pytest.raises(UserError, match="these codes are of another VQRAE"):
        cli.dispatch(["codes", "inspect", str(codes[0]), *other])
    with pytest.raises(UserError, match="--sheet and --model go together"):
        cli.dispatch(["codes", "inspect", str(codes[0]), "--sheet", str(page)])
    with pytest.raises(UserError, match=r"codes.json: no extracted codes there"):
        cli.dispatch(["codes", "inspect", str(tmp_path)])


def test_export_holds_every_sample(codes: tuple[Path, Any], tmp_path: Path) -> None:
    cli.dispatch(["codes", "export", str(codes[0]), str(tmp_path / "all.parquet")])
    table = pq.read_table(tmp_path / "all.parquet")
    rows = table.to_pylist()
    assert len(rows) == 24 and json.loads(table.schema.metadata[b"vqrae.codes"])["grid"] == [4, 4]
    with_captions = [row for row in rows if not row["source"].endswith("(unconditional)")]
    for row, sample in zip(with_captions, samples(codes), strict=True):
        assert (row["key"], row["caption"]) == (sample.key, sample.caption)
        assert row["codes"] == sample.codes.ravel().tolist()
    assert {row["caption"] for row in rows if row not in with_captions} == {None}
    with pytest.raises(UserError, match=r"expected a name that ends in .parquet"):
        cli.dispatch(["codes", "export", str(codes[0]), str(tmp_path / "all.csv")])


def test_prune_removes_what_no_source_has(
    codes: tuple[Path, Any], shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = codes[0]
    before = samples(codes)
    (root / "shards" / ".torn.0123.partial").write_bytes(b"left by a kill")
    (root / "shards" / f"{'0' * 32}.safetensors").write_bytes(b"of a picture that was changed")
    with Leases(root / "leases") as busy:
        busy.take("a")
        with pytest.raises(UserError, match="is at work there; nothing was removed"):
            cli.dispatch(["codes", "prune", str(root)])
    capsys.readouterr()
    cli.dispatch(["codes", "prune", str(root)])
    assert "removed 2 files" in capsys.readouterr().out
    assert [sample.key for sample in samples(codes)] == [sample.key for sample in before]
    with pytest.raises(UserError, match="no codes of gone, only of: "):
        cli.dispatch(["codes", "prune", str(root), "--source", "gone"])
    cli.dispatch(["codes", "prune", str(root), "--source", str(shelf / "images")])
    assert not [path for kind in ("shards", "captions", "sources") for path in (root / kind).iterdir()]
