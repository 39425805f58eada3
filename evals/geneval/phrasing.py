"""GenEval's own phrasing: a prompt's metadata and its text, made together, for each of the six tags.

What is notable here: the official prompts say `two toothbrushs`, `four knifes` and `two sheeps`; here plurals are
English. All else is as they have it, `a photo of a skis` and `three persons` too.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.geneval.rules import Metadata

OPENING = "a photo of "
NUMBERS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten",
}  # fmt: skip
IRREGULAR = {"knife": "knives", "mouse": "mice", "sheep": "sheep", "skis": "skis", "scissors": "scissors"}
HISSING = ("s", "x", "z", "ch", "sh")


def a(noun: str) -> str:
    """The noun with its article: `a circle`, `an orange circle`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    """`circles`, `wine glasses`, `knives`."""
    before, space, last = noun.rpartition(" ")
    ending = "es" if last.endswith(HISSING) else "s"
    return f"{before}{space}{IRREGULAR.get(last, last + ending)}"


def single_object(name: str) -> Metadata:
    return _metadata("single_object", [{"class": name, "count": 1}], a(name))


def two_object(first: str, second: str) -> Metadata:
    include = [{"class": first, "count": 1}, {"class": second, "count": 1}]
    return _metadata("two_object", include, f"{a(first)} and {a(second)}")


def counting(name: str, count: int) -> Metadata:
    """Exactly `count`: at least that many, and not one more."""
    text = f"{NUMBERS[count]} {plural(name)}"
    exclude = [{"class": name, "count": count + 1}]
    return _metadata("counting", [{"class": name, "count": count}], text, exclude)


def colors(name: str, color: str) -> Metadata:
    return _metadata("colors", [{"class": name, "count": 1, "color": color}], a(f"{color} {name}"))


def position(name: str, relation: str, target: str) -> Metadata:
    """GenEval lists the target first; the placed object refers to it by its index, 0."""
    include = [{"class": target, "count": 1}, {"class": name, "count": 1, "position": [relation, 0]}]
    return _metadata("position", include, f"{a(name)} {relation} {a(target)}")


def color_attr(first: tuple[str, str], second: tuple[str, str]) -> Metadata:
    """`first` and `second` are (class, color)."""
    include = [{"class": name, "count": 1, "color": color} for name, color in (first, second)]
    text = " and ".join(a(f"{color} {name}") for name, color in (first, second))
    return _metadata("color_attr", include, text)


def _metadata(tag: str, include: Sequence[Metadata], text: str, exclude: Sequence[Metadata] = ()) -> Metadata:
    extra = {"exclude": exclude} if exclude else {}
    return {"tag": tag, "include": include, **extra, "prompt": f"{OPENING}{text}"}
