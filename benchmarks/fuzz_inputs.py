"""What readers of data are fed with: sound files of odd make, and any file cut, overwritten, doubled and spliced."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image

Edit = tuple[str, int, bytes]  # what is done, where (mod the length), with what

EDITS: SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(("overwrite", "insert", "cut", "drop", "double", "flip")),
        st.integers(0, 2**20),
        st.binary(min_size=1, max_size=12),
    ),
    max_size=6,
)


def edited(content: bytes, edits: Sequence[Edit]) -> bytes:
    """`content` after each edit in turn."""
    for kind, place, with_ in edits:
        at = place % (len(content) + 1)
        end = at + len(with_)
        if kind == "overwrite":
            content = content[:at] + with_ + content[end:]
        elif kind == "insert":
            content = content[:at] + with_ + content[at:]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + 16 * len(with_) :]
        elif kind == "double":
            content = content[:at] + content[at : at + 64 * len(with_)] * 2 + content[at + 64 * len(with_) :]
        elif at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << with_[0] % 8)]) + content[at + 1 :]
    return content


@cache
def pictures() -> tuple[bytes, ...]:
    """One of each format and mode that is read, 12 px wide."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("L"), "JPEG", {"progressive": True}),
        (rgb, "PNG", {"exif": exif}),
        (rgb.quantize(4), "PNG", {"transparency": 1}),
        (rgb.convert("LA"), "PNG", {}),
        (Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500), "PNG", {}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "BMP", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb.convert("CMYK"), "TIFF", {}),
        (Image.fromarray(np.ones((4, 4), np.float32)), "TIFF", {}),
        (rgb, "PPM", {}),
        (rgb, "JPEG2000", {}),
        (rgb, "AVIF", {}),
    ]
    return tuple(_saved(*one) for one in made)


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def damaged(files: Sequence[bytes]) -> SearchStrategy[bytes]:
    """One of `files`, edited."""
    return st.builds(edited, st.sampled_from(files), EDITS)


IMAGES = st.one_of(st.deferred(lambda: damaged(pictures())), st.binary(max_size=200))

# ---- Tars ------------------------------------------------------------------------------------------------

ENDINGS = (
    "jpg",
    "JPG",
    "png",
    "txt",
    "json",
    "cap",
    "depth.png",
    "caption.txt",
    "info.json",
    "tar",
    "",
    "cls",
)
TEXTS = (
    b"a red square",
    b'{"caption": "a red square", "width": 3}',
    b'{"caption": ["a", 1, null]}',
    b'{"prompt": "half \\ud83d"}',
    b"\xff\xfe",
    b"\xef\xbb\xbfa",
    b"",
    b"[" * 2000,
)
NAMES = st.one_of(
    st.sampled_from(
        ("0", "1", "a.b", "dish.v1", "./0", "x/0", "../0", "/0", "._0", ".hid", "", "\u00fc", "a" * 120)
    ),
    st.text(max_size=6).map(lambda text: text.replace("\0", "")),
)
KINDS = (
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(ENDINGS),
        st.one_of(st.just(tarfile.REGTYPE), st.sampled_from(KINDS)),
        st.one_of(st.deferred(lambda: st.sampled_from(pictures())), st.sampled_from(TEXTS)),
    ),
    max_size=8,
)


def tarred(members: Sequence[tuple[str, str, bytes, bytes]], form: int) -> bytes:
    """A tar of members (name, ending, type, content); links lead to the first member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        first = None
        for name, ending, kind, content in members:
            member = tarfile.TarInfo(f"{name}.{ending}" if ending else name)
            member.type, member.size = (
                kind,
                len(content) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0,
            )
            first = first or member.name
            if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
                member.linkname = first
            try:
                tar.addfile(member, io.BytesIO(content) if member.size else None)
            except (ValueError, UnicodeError, struct.error):  # this format cannot hold such a name
                continue
    return out.getvalue()


TARS = st.builds(edited, st.builds(tarred, MEMBERS, st.sampled_from(FORMATS)), st.one_of(st.just([]), EDITS))

# ---- Records ---------------------------------------------------------------------------------------------

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(
        ("<image>", "<image>\nWhat is it?", "0.png", "data:image/png;base64,AAAA", "\ud83d", "\0", "")
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
TURNS = st.fixed_dictionaries(
    {},
    optional={
        "from": st.one_of(st.sampled_from(("human", "gpt", "system", "user", "tool")), VALUES),
        "value": VALUES,
        "role": st.one_of(st.sampled_from(("user", "assistant", "system")), VALUES),
        "content": VALUES,
    },
)
RECORDS = st.one_of(
    st.fixed_dictionaries(
        {"conversations": st.one_of(st.lists(TURNS, max_size=4), VALUES)},
        optional=dict.fromkeys(("id", "image", "images", "image_path", "video", "texts"), VALUES),
    ),
    st.fixed_dictionaries(
        {"messages": st.one_of(st.lists(TURNS, max_size=4), VALUES)}, optional={"images": VALUES}
    ),
    VALUES,
)


def as_json(records: Sequence[Any], form: str) -> bytes:
    """A list, JSON Lines, or an object around a list."""
    if form == "lines":
        text = "".join(json.dumps(record) + "\n" for record in records)
    else:
        text = json.dumps({"data": records} if form == "wrapped" else records)
    return text.encode()


def record_files(records: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    """Files of them, half of them edited."""
    sound = st.builds(as_json, st.lists(records, max_size=4), st.sampled_from(("list", "lines", "wrapped")))
    return st.builds(edited, sound, st.one_of(st.just([]), EDITS))


CAPTION_LINES = record_files(
    st.one_of(
        st.fixed_dictionaries({"file_name": st.just("0.png"), "caption": st.text(max_size=8)}),
        st.fixed_dictionaries({"file_name": VALUES, "caption": VALUES}, optional={"text": VALUES}),
    )
)
PROMPT_LINES = st.one_of(
    record_files(st.fixed_dictionaries({"prompt": st.one_of(st.text(max_size=8), VALUES)})),
    st.lists(st.text(max_size=8)).map(
        lambda lines: "\n".join(["text", *lines]).encode("utf-8", "surrogatepass")
    ),
)
