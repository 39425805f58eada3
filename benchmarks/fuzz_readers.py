"""Every reader of data, as `benchmarks/fuzz.py` asks it: an example is written down, opened as a user's file, and read
to its end."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from benchmarks import fuzz_inputs as inputs
from common.config import load_config
from common.data.config import SourceConfig
from common.data.images import CorruptImage, open_image, open_resized, read_size
from common.data.open import open_indexed
from common.errors import UserError
from common.preflight.leaks import read_prompts
from tokenizer.config import TokenizerConfig
from understanding.config import ConversationSource
from understanding.conversation import BadSample, read_conversation
from understanding.records.open import fields_of, open_records

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Reader:
    """`read(example, folder)` gives how many samples it found, an example of `inputs` written into an empty folder."""

    inputs: SearchStrategy[Any]
    read: Callable[[Any, Path], int]


def read_picture(content: bytes, folder: Path) -> int:
    # The header alone may be sound where the rest is not, and never the other way around.
    image = open_image(content)
    assert image.mode == "RGB" and min(image.size) > 0
    assert min(open_resized(content, 4).size) == 4
    read_size(content)
    return 1


def read_all(config: SourceConfig) -> int:
    """Every sample of a source, each under a key of its own; a damaged picture is one of the training's own."""
    source = open_indexed(config)
    keys = set()
    for index in range(len(source)):
        raw = source.read(index)
        keys.add(raw.key)
        assert raw.caption is None or raw.caption.encode("utf-8")
        try:
            open_image(raw.data)
        except CorruptImage:
            continue
    assert len(keys) == len(source), "two samples have one key"
    source.account()
    return len(source)


def read_tar(content: bytes, folder: Path) -> int:
    (folder / "0.tar").write_bytes(content)
    return read_all(SourceConfig(kind="shards", path=str(folder)))


def read_table(content: bytes, folder: Path) -> int:
    (folder / "0.parquet").write_bytes(content)
    return read_all(SourceConfig(kind="parquet", path=str(folder), caption_column="text"))


def read_captions(content: bytes, folder: Path) -> int:
    (folder / "0.png").write_bytes(inputs.pictures()[3])
    (folder / "captions.jsonl").write_bytes(content)
    return read_all(SourceConfig(kind="folder", path=str(folder)))


def read_records(content: bytes, folder: Path) -> int:
    path = folder / "records.json"
    path.write_bytes(content)
    source = ConversationSource(annotations=str(path), images=str(folder))
    found = 0
    for record in open_records(source).scan():
        found += 1
        try:
            if isinstance(record.record, BadSample):
                raise record.record
            read_conversation(record.record, fields_of(source))
        except BadSample as problem:
            assert "\n" not in str(problem).strip()
    return found


def read_codes(content: tuple[bool, bytes], folder: Path) -> int:
    """A shard of codes and its captions, of which one is as in the example."""
    from generation.codes.shard import Captions, Shard

    in_captions, damaged = content
    paths = folder / "codes.safetensors", folder / "captions.safetensors"
    for path, sound in zip(paths, _code_files(), strict=True):
        path.write_bytes(sound)
    paths[in_captions].write_bytes(damaged)
    shard, captions = Shard(paths[0]), Captions(paths[1])
    for row in range(len(shard)):
        shard.codes(row, row + 1)
        assert shard.keys[row] is not None
        assert captions.texts[row] is not None
    return len(shard)


def read_recipe(content: bytes, folder: Path) -> int:
    (folder / "recipe.yaml").write_bytes(content)
    load_config(TokenizerConfig, folder / "recipe.yaml")
    return 1


def read_override(text: str, folder: Path) -> int:
    load_config(TokenizerConfig, _recipe(), [text])
    return 1


def read_prompt_file(content: bytes, folder: Path) -> int:
    refused: list[UserError] = []
    found = 0
    for ending in ("txt", "csv", "jsonl"):
        (folder / f"prompts.{ending}").write_bytes(content)
        try:
            found += len(read_prompts(folder / f"prompts.{ending}"))
        except UserError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    return found


def _recipe() -> Path:
    return ROOT / "tokenizer" / "recipes" / "demo_stage1.yaml"


@cache
def _tables() -> tuple[bytes, ...]:
    """Parquet whose pictures lie in a struct, as plain bytes and as text, in row groups of two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = []
    pictures = [*inputs.pictures()[:4], None]
    captions = ["a", "", None, "d\0", "e"]
    for column in ([{"bytes": one, "path": None} for one in pictures], pictures, ["gone.png"] * 5):
        out = io.BytesIO()
        pq.write_table(pa.table({"image": column, "text": captions}), out, row_group_size=2)
        made.append(out.getvalue())
    return tuple(made)


@cache
def _code_files() -> tuple[bytes, bytes]:
    """Three pictures of two by two codes, and their captions."""
    from generation.codes.facts import CodeFacts
    from generation.codes.shard import ShardOrigin, write_captions, write_shard

    facts = CodeFacts("a" * 64, 32, (2, 2), 16, "center", "fp32")
    codes = list(np.arange(12).reshape(3, 2, 2))
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "codes"), Path(folder, "captions")
        write_shard(paths[0], facts, ShardOrigin("part", "f", 0, 4, "p"), codes, ["a", "b", "c"], ["d: torn"])
        write_captions(paths[1], "codes", ["red", None, "blue"])
        return paths[0].read_bytes(), paths[1].read_bytes()


CODES = st.booleans().flatmap(
    lambda captions: st.tuples(st.just(captions), inputs.damaged((_code_files()[captions],)))
)
OVERRIDES = st.one_of(
    st.builds(
        "{}={}".format,
        st.sampled_from(("steps", "seed", "output", "data.sources.0.path", "data.sources.9", "model", "x.y")),
        st.one_of(
            st.text(max_size=10), st.sampled_from(("[", "{a: b", "null", "1e999", "!!python/x", "-1", "*a"))
        ),
    ),
    st.text(max_size=12),
)

READERS: Mapping[str, Reader] = {
    "images": Reader(inputs.IMAGES, read_picture),
    "tars": Reader(inputs.TARS, read_tar),
    "tables": Reader(st.deferred(lambda: inputs.damaged(_tables())), read_table),
    "captions": Reader(inputs.CAPTION_LINES, read_captions),
    "records": Reader(inputs.record_files(inputs.RECORDS), read_records),
    "codes": Reader(CODES, read_codes),
    "recipes": Reader(st.deferred(lambda: inputs.damaged((_recipe().read_bytes(),))), read_recipe),
    "overrides": Reader(OVERRIDES, read_override),
    "prompts": Reader(inputs.PROMPT_LINES, read_prompt_file),
}
