"""Which members of the samples are the pictures and the captions that a recipe means, and what that leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.data.config import IMAGE_COLUMN, SourceConfig
from common.data.sources import Account
from common.data.tars.captions import MEMBERS, ending_of
from common.data.tars.catalogue import Catalogue
from common.data.tars.names import TEXTS, is_picture
from common.data.tars.shard_index import ShardIndex, Summary
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

    def count(self, summary: Summary) -> int:
        """Samples of a shard that have the picture."""
        return summary.samples if self.picture is None else summary.pictures.get(self.picture, 0)

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

    def check(self, name: str, summaries: Sequence[Summary]) -> None:
        """Raises:
        UserError: what the recipe names is nowhere, or it names nothing where samples have several pictures.
        """
        pictures = total(each.pictures for each in summaries)
        several = sum(each.several for each in summaries)
        if self.picture and pictures and not pictures[self.picture]:
            raise UserError(
                f"{name}: image_column: no sample has a .{self.picture}; there are {listing(pictures, '.')}"
            )
        if not self.picture and several:
            example = next(each.example for each in summaries if each.several)
            raise UserError(
                f"{name}: image_column: {several} samples have more than one picture ({example}); name the ending "
                f"of the one that is meant, of {listing(pictures, '.')}"
            )
        others, fields = total(each.others for each in summaries), total(each.fields for each in summaries)
        if self.caption and not (others[ending_of(self.caption)] or fields[self.caption]):
            raise UserError(
                f"{name}: caption_column: no sample has {self.caption}; there are the endings {listing(others, '.')} "
                f"and the JSON keys {listing(fields)}"
            )

    def doubt(self, summaries: Sequence[Summary]) -> str | None:
        """Why it is not clear which text is the caption; None where it is."""
        unlike = sum(each.unlike for each in summaries)
        if self.caption or not unlike:
            return None
        example = next(each.doubt for each in summaries if each.unlike)
        return f"caption_column: {unlike} samples have several texts that may be the caption ({example}); name one"

    def account(self, catalogue: Catalogue) -> Account:
        summaries = catalogue.summaries
        samples = sum(map(self.count, summaries))
        left_out: Counter[str] = Counter()
        for each in summaries:
            left_out.update({reason: count for reason, (count, _) in each.left_out.items()})
        for ending, count in total(each.others for each in summaries).items():
            if not self._reads(ending):
                left_out[f"members .{ending}"] += count
        for ending, count in total(each.pictures for each in summaries).items():
            if self.picture not in (None, ending):
                left_out[f"members .{ending}"] += count
        if lacking := sum(each.samples for each in summaries) - samples:
            left_out[f"samples without a .{self.picture}"] = lacking
        if catalogue.damaged:
            left_out["damaged shards"] = len(catalogue.damaged)
        return Account(samples, self._captions(summaries, samples), dict(left_out))

    def _reads(self, ending: str) -> bool:
        if ending.rpartition(".")[2] == "json":
            return True
        return ending == ending_of(self.caption) if self.caption else ending in MEMBERS

    def _captions(self, summaries: Sequence[Summary], samples: int) -> int:
        if self.caption is None:
            found = sum(each.captions for each in summaries)
        else:
            found = sum(_named_captions(each, self.caption) for each in summaries)
        return min(found, samples)


def _named_captions(summary: Summary, place: str) -> int:
    ending = ending_of(place)
    if ending in summary.others:
        return summary.texts.get(ending, 0 if ending.rpartition(".")[2] in TEXTS else summary.others[ending])
    return summary.fields.get(place, 0)


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return found


def listing(counts: Counter[str], before: str = "") -> str:
    """`.jpg (20), .png (3)`, the commonest first."""
    named = [f"{before}{name} ({count})" for name, count in counts.most_common(SHOWN)]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "") if named else "none"
