"""What sources were given, told where people look: in dry runs, at the start of a run, behind an extraction.

What is notable here: a generator that finds no captions at all would learn to draw without a prompt, and nothing else
would say so; so a source without any is refused there, unless the recipe says that this is meant.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.data.config import SourceConfig
from common.data.folder import OTHER_FILES
from common.data.open import open_source
from common.data.shards import shard_paths
from common.data.sources import Account
from common.data.tars.store import folder_of, place_of
from common.errors import UserError, refusing

FEW = 8  # shards that a dry run may look through


def account_line(name: str, account: Account, captions: bool = True) -> str:
    """One line: `data/photos: 1,203 pictures, 1,200 with a caption; left out: 38 .cr2 files, ...`.

    It begins with `warning: ` where more was left out than is used.

    Args:
        name: the source's. captions: whether they are looked for.
    """
    samples = "pictures, read forward" if account.samples is None else f"{account.samples:,} pictures"
    parts = [samples]
    if captions:
        unknown = "how many have a caption is not known before they are read"
        parts.append(unknown if account.captions is None else f"{account.captions:,} with a caption")
    line = f"{name}: {', '.join(parts)}"
    left_out = {what: count for what, count in account.left_out.items() if count}
    if left_out:
        line += f"; left out: {', '.join(f'{count:,} {what}' for what, count in left_out.items())}"
    lost = sum(count for what, count in left_out.items() if what != OTHER_FILES)
    return f"warning: {line}" if account.samples is not None and lost > account.samples else line


def check_captions(config: SourceConfig, account: Account) -> None:
    """What a source must say whose captions are wanted.

    Raises:
        UserError: none of the pictures has a caption.
    """
    if config.unconditional:
        return
    if account.captions == 0:
        left_out = "".join(f"; {count:,} {what}" for what, count in account.left_out.items() if count)
        number = "" if account.samples is None else f"{account.samples:,} "
        raise UserError(
            f"{config.path}: none of its {number}pictures has a caption{left_out}; say where they are "
            "(`captions`, `caption_column`), or `unconditional: true` if it is meant so"
        )


def accounts(sources: Mapping[str, SourceConfig], captions: bool, lanes: int = 1) -> list[str]:
    """Open all sources; a line for each.

    Args:
        sources: by the recipe's field. captions: whether they are wanted.

    Raises:
        UserError: one cannot be opened, or has no captions where they are wanted.
    """
    return [_account(field, config, captions, lanes) for field, config in sources.items()]


def planned_accounts(sources: Mapping[str, SourceConfig], captions: bool) -> list[str]:
    """The same for a dry run, which goes to no network, does without data and indexes none."""
    return [_absent(config) or _account(field, config, captions) for field, config in sources.items()]


def numbered(field: str, sources: Iterable[SourceConfig]) -> dict[str, SourceConfig]:
    """The sources of a list by their fields: `data.sources.0`, ..."""
    return {f"{field}.{number}": source for number, source in enumerate(sources)}


def _account(field: str, config: SourceConfig, captions: bool, lanes: int = 1) -> str:
    with refusing(field, UserError):
        source = open_source(config, lanes, captions)
        account = source.account()
        if captions:
            check_captions(config, account)
    return account_line(config.path, account, captions and not config.unconditional)


def _absent(config: SourceConfig) -> str | None:
    """Why a dry run does not open a source, in a line; None if it does."""
    if "://" in config.path or not _is_here(config.path):
        return f"{config.path}: not here"
    if config.kind == "shards":
        paths = shard_paths(config.path)
        if len(paths) > FEW and not all(map(place_of, {folder_of(path) for path in paths})):
            return f"{config.path}: {len(paths):,} shards without an index; vqrae index makes one, and counts"
    return None


def _is_here(pattern: str) -> bool:
    return Path(pattern).exists() or bool(glob.glob(re.split(r"[{*?\[]", pattern)[0] + "*"))  # noqa: PTH207
