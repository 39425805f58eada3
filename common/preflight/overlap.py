"""Are held-out pictures trained on? By where they lie, and by their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.data.config import SourceConfig
from common.data.shards import shard_paths
from common.errors import UserError
from common.preflight.looking import Looked, Wanted


def overlap_lines(results: Sequence[tuple[Wanted, Looked]]) -> Iterator[str]:
    """A warning for each held-out set that shares files with a source that is trained on, or pictures with what was
    looked at of it."""
    training = [(want, looked) for want, looked in results if not want.held_out]
    for want, looked in results:
        if not want.held_out:
            continue
        for other, seen in training:
            if lies_in(want.source, other.source):
                yield f"warning: {want.where}: its pictures are among those of {other.where}: they are trained on"
            elif same := set(looked.digests) & set(seen.digests):
                yield (
                    f"warning: {want.where}: {len(same)} of its {len(looked.digests)} pictures are, byte for byte, "
                    f"among the {len(seen.digests)} looked at of {other.where}"
                )


def lies_in(one: SourceConfig, other: SourceConfig) -> bool:
    """Whether files of `one` are files of `other`; of folders and tars, since other kinds do not say."""
    if one.kind != other.kind:
        return False
    if one.kind == "folder":
        first, second = Path(one.path).resolve(), Path(other.path).resolve()
        return first.is_relative_to(second) or second.is_relative_to(first)
    if one.kind == "shards":
        return bool(_tars(one.path) & _tars(other.path))
    return (one.path, one.subset, one.split, one.revision) == (
        other.path,
        other.subset,
        other.split,
        other.revision,
    )


def _tars(pattern: str) -> set[str]:
    try:
        return {path if "://" in path else str(Path(path).resolve()) for path in shard_paths(pattern)}
    except UserError:
        return set()
