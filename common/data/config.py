"""What a recipe says about its data. Imports neither torch nor datasets: `--print-config` stays fast."""

from __future__ import annotations

from typing import Annotated, Literal

from common.config import Count, Rate, Share, Workers, between, configclass

# Pillow's own threshold for a suspicious picture (a quarter gigabyte of RGB); it refuses twice that itself.
MAX_PIXELS = 89_478_485


IMAGE_COLUMN = "image"


@configclass
class SourceConfig:
    """One set of images.

    `kind` and `path`:
    - `folder`: a folder, searched recursively. Captions: see `folder_captions`.
    - `shards`: WebDataset tars, as a folder, a glob, or a brace range (`data/{0000..0127}.tar`).
    - `parquet`: tables, as a folder, a glob, or a brace range.
    - `hub`: a Hugging Face dataset, as a hub id or a local folder (also one of `save_to_disk`).

    Shards and tables may be URLs (`s3://bucket/set/{000..127}.tar`, `https://`, `hf://datasets/OWNER/NAME/data/*.parquet`).
    """

    kind: Literal["folder", "shards", "parquet", "hub"]
    path: str
    weight: Rate = 1.0  # share of the samples drawn, relative to the other sources' weights
    # folder: a file with captions (.jsonl, .json, .csv, .parquet), or the ending of texts beside the pictures: `.txt`
    captions: str | None = None
    unconditional: bool = False  # captions are not read: a generator learns these pictures without any
    window: Count = (
        16  # shards, parquet: samples are shuffled within so many shards, or row groups, at a time
    )
    subset: str | None = None  # hub: the dataset's configuration name
    split: str = "train"  # hub
    revision: str | None = None  # hub
    streaming: bool = False  # hub: read forward from the remote files instead of downloading first
    stream_block: Count = 64  # hub, streaming: samples are shuffled within so many at a time
    # hub, parquet: the column; shards: the ending of the member that is the picture, where samples have several (`jpg`)
    image_column: str = IMAGE_COLUMN
    # Where captions are, if it is not where they usually are: a column, a member's ending (`txt`) or a key of .json, a
    # field of a caption file
    caption_column: str | None = None
    max_damaged_shards: Share = 0.01  # shards: those that may be left out because they cannot be read, of all

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path: expected a folder, a pattern or a dataset id, found an empty string")
        if self.streaming and self.kind != "hub":
            raise ValueError(f"streaming: only `hub` sources stream, found kind {self.kind!r}")
        if self.captions is not None and self.kind != "folder":
            raise ValueError(f"captions: only `folder` sources read a caption file, found kind {self.kind!r}")
        named = next(
            (name for name in ("captions", "caption_column") if getattr(self, name) is not None), None
        )
        if self.unconditional and named:
            raise ValueError(f"unconditional: captions are not read then, and {named} says where they are")


@configclass
class DataConfig:
    """The training stream: which sources, and how a picture becomes a square of pixels."""

    image_size: Annotated[
        int, between(1, 2**14)
    ]  # px, side of the square crop, which is also the reconstruction's size
    sources: tuple[SourceConfig, ...]
    crop: Literal["random", "center"] = "random"  # Table 7
    flip: bool = True  # Table 7: random flip, left-right
    workers: Workers = 4  # processes that decode, per rank; 0 decodes in the trainer itself
    prefetch: Annotated[int, between(1, 1024)] = 4  # micro-batches decoded ahead
    # A JPEG four times larger than `image_size`, or more, is decoded at 1/2 to 1/8 of its size, which is faster and
    # moves pixels by less than a level of 255 on average; true decodes all of it.
    exact_decoding: bool = False
    # Positions are dealt to so many lanes, and each lane reads its own part of a streamed dataset, forward
    # only. A worker reads nothing twice if world size x workers divides it. Part of the order: keep it when
    # resuming.
    lanes: Count = 64
    max_pixels: Count = MAX_PIXELS  # a larger picture is refused from its header, as a decompression bomb
    max_corrupt_share: Share = 0.01  # unreadable images, of all samples drawn, past which training stops

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: expected at least one source, found none")
        if self.max_pixels > 2 * MAX_PIXELS:
            raise ValueError(f"max_pixels: expected at most {2 * MAX_PIXELS}, where Pillow refuses by itself")
