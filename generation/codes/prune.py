"""What of a folder of codes nobody needs any more, removed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import writing
from generation.codes.facts import read_facts
from generation.codes.leases import STALE, Leases
from generation.codes.record import name_of_source, records, unused_files


def prune(root: Path, forgotten: Sequence[str] = ()) -> tuple[int, int]:
    """Remove the files of no source, and what killed processes have left; returns how many and their bytes.

    Args:
        forgotten: sources, as a recipe names them, whose codes are to go too.

    Raises:
        UserError: a process is at work there, or there are no codes of such a source.
    """
    read_facts(root)
    with Leases(root / "leases", STALE) as leases:
        if living := leases.living():
            raise UserError(f"{root}: {living[0]} is at work there; nothing was removed")
    found = records(root)
    gone = []
    for name in forgotten:
        its = [path for path, record in found.items() if record.source["path"] == os.path.normpath(name)]
        if not its:
            there = ", ".join(name_of_source(record.source) for record in found.values())
            raise UserError(f"{root}: no codes of {name}, only of: {there or 'nothing'}")
        gone += its
    with writing(root):
        for path in gone:
            path.unlink()
        partials = [
            path
            for folder in ("shards", "captions", "sources")
            for path in (root / folder).glob(".*.partial")
        ]
        leases_left = list((root / "leases").iterdir())
        removed = [*unused_files(root), *partials, *leases_left]
        size = sum(path.stat().st_size for path in removed)
        for path in removed:
            path.unlink(missing_ok=True)
    return len(removed) + len(gone), size
