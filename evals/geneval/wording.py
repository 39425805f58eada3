"""Why a picture failed, in plain words: the original's reasons are terse, and verdicts.jsonl keeps them as they are."""

from __future__ import annotations

import re

from evals.geneval.rules import RELATIONS, Metadata, Verdict

_TOO_FEW = re.compile(r"expected (?P<name>.+)>=(?P<count>\d+), found (?P<found>\d+)$")
_COLOR = re.compile(r"expected (?P<wish>.+)>=(?P<count>\d+), found (?P<found>.+)$")
_TOO_MANY = re.compile(r"expected (?P<name>.+)<(?P<count>\d+), found (?P<found>\d+)$")
_RELATION = f"(?P<wish>{'|'.join(RELATIONS)})"
_PLACE = re.compile(rf"expected (?P<name>.+) {_RELATION} target, found (?P<found>.+) target$")
_NO_TARGET = re.compile(rf"no target for (?P<name>.+) to be {_RELATION}$")


def in_words(metadata: Metadata, verdict: Verdict) -> list[str]:
    """A sentence for each reason of a verdict; none where the picture passed.

    Args:
        metadata: of the prompt, which names what a reason calls the target.
    """
    return [_in_words(metadata, reason) for reason in verdict.reasons]


def _in_words(metadata: Metadata, reason: str) -> str:
    if found := _TOO_FEW.match(reason):
        return f"{found['name']}: {found['count']} asked for, {found['found']} found"
    if found := _TOO_MANY.match(reason):
        return f"{found['name']}: {int(found['count']) - 1} asked for, {found['found']} found"
    if found := _PLACE.match(reason):
        target = _target(metadata, found["name"])
        if found["found"] == "no relation to":
            return (
                f"the {found['name']} should be {found['wish']} the {target}, and is on no clear side of it"
            )
        return f"the {found['name']} should be {found['wish']} the {target}, and is {found['found']} it"
    if found := _NO_TARGET.match(reason):
        target = _target(metadata, found["name"])
        return f"the {found['name']} cannot be {found['wish']} the {target}, which is not as asked for"
    if found := _COLOR.match(reason):
        return f"{found['count']} {found['wish']} asked for, {found['found']} found"
    return reason


def _target(metadata: Metadata, name: str) -> str:
    """The class that a wish for `name` names as its target."""
    wishes = metadata.get("include", ())
    placed = (wish["position"][1] for wish in wishes if wish["class"] == name and "position" in wish)
    return str(wishes[next(placed)]["class"])
