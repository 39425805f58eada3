"""A prompt's rules made strict: what it names, as often as it names it, and nothing else.

GenEval's rules accept more of a class than was asked for, but for counting. So a generator that is rewarded by them
learns to fill its pictures: one that draws four of everything shows most prompts. As a reward, the strict rules leave
no such way out; as a measure, GenEval's own stay what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evals.geneval.rules import Metadata


def nothing_else(metadata: Metadata, classes: Sequence[str] | None = None) -> Metadata:
    """The same prompt, failed by more of a class than is asked for.

    Args:
        classes: those that are counted; None: the ones that the prompt names. What else a picture shows is let be.
    """
    asked: Counter[str] = Counter()
    for wish in metadata.get("include", ()):
        asked[wish["class"]] += wish["count"]
    counted = dict.fromkeys(asked if classes is None else (*asked, *classes))
    stated = [wish for wish in metadata.get("exclude", ()) if wish["class"] not in counted]
    return {
        **metadata,
        "exclude": [*stated, *({"class": name, "count": asked[name] + 1} for name in counted)],
    }
