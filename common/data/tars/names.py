"""How the names in a tar make samples: every name is a key and an ending, and members of one key are one sample.

WebDataset lets a key end at the first dot. That is right for `0000.depth.png` beside `0000.jpg`, and makes one sample
of `dish.v1.jpg` and `dish.v2.jpg`. Here a key ends at the last dot, unless what stands before it is a word of the
ending, as `depth`, because

- the name without it is in the tar too: `0000.jpg`, `0000.txt` or any other `0000.`;
- more than half of the tar's names before the first dot, and at least two, have that ending: `0000.left.png` and
  `0000.right.png`, `0001.left.png` ...; or another tar of the same set has it for that reason (`known`);
- it tells a single picture from its texts: `0000.photo.jpg` and `0000.caption.txt`.

A key has a picture and a text of its own more often than not. So a number or a version (`0001`, `v2`) is a word only
where a text waits for its pictures (`0000.json`, `0000.0.jpg`, `0000.1.jpg`), and `dish.red.jpg` with `dish.red.txt` is
a sample, unless there is `dish.jpg` too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.data.images import EXTENSIONS

TEXTS = frozenset({"txt", "cap", "caption", "json"})
NUMBER = re.compile(r"v?\d+(\.v?\d+)*", re.IGNORECASE)
FEW = 16  # endings that might be some, past which a tar is large enough to tell by itself


def is_picture(ending: str) -> bool:
    """Whether `jpg`, `depth.png` ... names a picture."""
    return f".{ending.rpartition('.')[2]}" in EXTENSIONS


@dataclass(frozen=True)
class Split:
    """(key, ending) of each name, endings in lower case; compound endings that were found, and that might be some."""

    names: list[tuple[str, str]]
    found: frozenset[str]
    possible: frozenset[str]


def split_names(names: Sequence[str], known: Collection[str] = ()) -> Split:
    """Args:
    names: of a tar's members, no two alike, none of which begins with a dot.
    known: compound endings that other tars of the set have.
    """
    parts = [_at_last_dot(name) for name in names]
    plain: dict[str, set[str]] = defaultdict(set)
    for stem, ending in parts:
        plain[stem].add(ending)
    dotted = [stem for stem in plain if "." in stem.rpartition("/")[2]]
    if not dotted:
        return Split(parts, frozenset(), frozenset())
    common = _common_endings(plain, dotted)
    alone = _single_pictures(plain, dotted)
    parents: dict[str, str] = {}
    for stem in dotted:
        parent = _parent(stem, plain, common | set(known), alone)
        if parent is not None:
            parents[stem] = parent
    split = []
    for stem, ending in parts:
        key = stem
        while key in parents:
            key = parents[key]
        split.append((key, f"{stem[len(key) + 1 :]}.{ending}".lower() if key != stem else ending))
    found = {ending for _, ending in split if "." in ending}
    possible = {ending for stem in dotted for _, _, ending in _readings(stem, plain[stem])}
    possible -= found | set(known)  # those were looked at
    return Split(split, frozenset(found), frozenset(possible if len(possible) <= FEW else ()))


def _at_last_dot(name: str) -> tuple[str, str]:
    base = name.rpartition("/")[2]
    if "." not in base:
        return name, ""
    stem, _, ending = name.rpartition(".")
    return stem, ending.lower()


def _shorter(stem: str) -> Iterator[tuple[str, str]]:
    """Every (key, word) that a stem may be read as, the shortest key first: a.b.c -> (a, b.c), (a.b, c)."""
    base = len(stem) - len(stem.rpartition("/")[2])
    at = stem.find(".", base)
    while at >= 0:
        if at > base:
            yield stem[:at], stem[at + 1 :]
        at = stem.find(".", at + 1)


def _readings(stem: str, endings: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Every (key, word, compound ending), the shortest key first, of words that are no numbers."""
    for key, word in _shorter(stem):
        if not NUMBER.fullmatch(word):
            for ending in endings:
                yield key, word, f"{word}.{ending}".lower()


def _common_endings(plain: dict[str, set[str]], dotted: list[str]) -> set[str]:
    keys: dict[str, set[str]] = defaultdict(set)
    for stem in dotted:
        for key, _, ending in _readings(stem, plain[stem]):
            keys[ending].add(key)
    first = {next(_shorter(stem), (stem, ""))[0] for stem in plain}
    return {ending for ending, having in keys.items() if len(having) > 1 and 2 * len(having) > len(first)}


def _single_pictures(plain: dict[str, set[str]], dotted: list[str]) -> set[str]:
    """Keys before the last word under which there is one picture, beside texts, and no word is a number."""
    pictures: dict[str, int] = defaultdict(int)
    texts, numbered = set(), set()
    for stem in dotted:
        key, _, word = stem.rpartition(".")
        pictures[key] += sum(is_picture(ending) for ending in plain[stem])
        if plain[stem] & TEXTS:
            texts.add(key)
        if NUMBER.fullmatch(word):
            numbered.add(key)
    return {key for key in texts - numbered if pictures[key] == 1}


def _parent(
    stem: str, plain: dict[str, set[str]], compound: Collection[str], alone: Collection[str]
) -> str | None:
    """The key that the rest of `stem` belongs to, or None where it is one itself."""
    own = plain[stem]
    whole = bool(own & TEXTS) and any(map(is_picture, own))
    readings = list(_shorter(stem))
    for key, word in reversed(readings):
        if key in plain:
            waits = not any(map(is_picture, plain[key])) and not whole
            if waits or not NUMBER.fullmatch(word):
                return key
    if whole:
        return None
    for key, _, ending in _readings(stem, own):
        if ending in compound:
            return key
    key = stem.rpartition(".")[0]
    return key if key in alone else None
