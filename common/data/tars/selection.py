"""Which members of the samples are the pictures and the captions that a recipe means, and what that leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.data.config import IMAGE_COLUMN, SourceConfig
from common.data.sources import Account
from common.data.tars.captions import MEMBERS, ending_of
from common.data.tars.catalogue import Catalogue
from common.data.tars.counts import Counts
from common.data.tars.names import TEXTS, is_picture
from common.data.tars.shard_index import ShardIndex
from common.errors import UserError

SHOWN = 12  # endings or keys that a message lists


@dataclass(frozen=True)
class Selection:
    """What a recipe names: the ending of the picture, and the ending or the JSON key of the caption."""

    picture: str | None
    caption: str | None

    @classmethod
    def stated(cls, config: SourceConfig) -> Selection:
        picture = None if config.image_column == IMAGE_COLUMN else config.image_column.lower()
        return cls(picture and picture.removeprefix("."), config.caption_column)

    def count(self, counts: Counts) -> np.ndarray:
        """(n,) int64: samples of each shard that have the picture."""
        if self.picture is None:
            return counts.numbers["samples"]
        return counts.kinds["pictures"].get(self.picture, np.zeros(len(counts), dtype=np.int64))

    def rows(self, index: ShardIndex) -> np.ndarray:
        """(n,) int64: those samples, in the order of the tar."""
        wanted = [
            is_picture(each) if self.picture is None else each == self.picture for each in index.endings
        ]
        having = np.array(wanted, dtype=bool)[index.ending]
        samples = np.searchsorted(index.first, np.flatnonzero(having), side="right") - 1
        return np.unique(samples)

    def picture_of(self, members: dict[str, int]) -> int:
        """Which of a sample's members is its picture."""
        return members[self.picture or next(filter(is_picture, members))]

    def check(self, name: str, counts: Counts, captions: bool) -> None:
        """Raises:
        UserError: what the recipe names is nowhere, or it names nothing where samples have several pictures, or where
            captions are wanted and several texts may be the caption.
        """
        pictures, several = counts.totals("pictures"), counts.total("several")
        if self.picture and pictures and not pictures[self.picture]:
            raise UserError(
                f"{name}: image_column: no sample has a .{self.picture}; there are {listing(pictures, '.')}"
            )
        if not self.picture and several:
            example = counts.first("example")
            raise UserError(
                f"{name}: image_column: {several} samples have more than one picture ({example}); name the ending "
                f"of the one that is meant, of {listing(pictures, '.')}"
            )
        others, fields = counts.totals("others"), counts.totals("fields")
        if self.caption and not (others[ending_of(self.caption)] or fields[self.caption]):
            raise UserError(
                f"{name}: caption_column: no sample has {self.caption}; there are the endings {listing(others, '.')} "
                f"and the JSON keys {listing(fields)}"
            )
        unlike = counts.total("unlike")
        if captions and not self.caption and unlike:
            raise UserError(
                f"{name}: caption_column: {unlike} samples have several texts that may be the caption "
                f"({counts.first('doubt')}); name the one that is meant"
            )

    def account(self, catalogue: Catalogue) -> Account:
        counts = catalogue.counts
        samples = int(self.count(counts).sum())
        left_out = counts.totals("left_out")
        for ending, count in counts.totals("others").items():
            if not self._reads(ending):
                left_out[f"members .{ending}"] += count
        for ending, count in counts.totals("pictures").items():
            if self.picture not in (None, ending):
                left_out[f"members .{ending}"] += count
        if lacking := counts.total("samples") - samples:
            left_out[f"samples without a .{self.picture}"] = lacking
        if catalogue.damaged:
            left_out["damaged shards"] = len(catalogue.damaged)
        return Account(samples, min(samples, self._captions(counts)), dict(left_out))

    def _reads(self, ending: str) -> bool:
        if ending.rpartition(".")[2] == "json":
            return True
        return ending == ending_of(self.caption) if self.caption else ending in MEMBERS

    def _captions(self, counts: Counts) -> int:
        if self.caption is None:
            return counts.total("captions")
        ending = ending_of(self.caption)
        others = counts.totals("others")
        if ending not in others:
            return counts.totals("fields")[self.caption]
        return (counts.totals("texts") if ending.rpartition(".")[2] in TEXTS else others)[ending]


def listing(counts: Counter[str], before: str = "") -> str:
    """`.jpg (20), .png (3)`, the commonest first."""
    named = [f"{before}{name} ({count})" for name, count in counts.most_common(SHOWN)]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "") if named else "none"
