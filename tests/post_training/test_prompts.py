"""Prompts are dealt so that no tag falls short and none is forgotten."""

from __future__ import annotations

from collections import Counter

import pytest

from common.errors import UserError
from evals.scorers.prompts import ScoredPrompt
from post_training.prompts import Dealer, tag_of

FEW = [ScoredPrompt(f"count {place}", {"tag": "counting"}) for place in range(3)]
MANY = [ScoredPrompt(f"color {place}", {"tag": "colors"}) for place in range(20)]
PLAIN = [ScoredPrompt(f"plain {place}", {}) for place in range(5)]


def test_each_step_has_as_many_of_each_tag() -> None:
    dealer = Dealer([*FEW, *MANY], 8, "tag", seed=0)
    for batch in range(5):
        groups = dealer.deal(batch)
        assert Counter(tag_of(group.prompt) for group in groups) == {"counting": 4, "colors": 4}
        assert groups == Dealer([*FEW, *MANY], 8, "tag", seed=0).deal(batch)
        # A prompt that stands twice in a step goes on with other noise.
        assert len({(group.prompt.text, group.turn) for group in groups}) == 8
    assert dealer.deal(0) != dealer.deal(1) and dealer.deal(0) != Dealer([*FEW, *MANY], 8, "tag", 1).deal(0)


def test_none_comes_again_before_all_have_come() -> None:
    dealer = Dealer([*FEW, *MANY], 4, "tag", seed=0)
    colors = [
        g.prompt.text for batch in range(10) for g in dealer.deal(batch) if g.prompt.text.startswith("color")
    ]
    assert sorted(colors) == sorted(prompt.text for prompt in MANY)
    counts = [
        g.prompt.text for batch in range(9) for g in dealer.deal(batch) if g.prompt.text.startswith("count")
    ]
    assert set(Counter(counts).values()) == {6}


def test_tags_that_do_not_divide_a_step() -> None:
    with pytest.raises(
        UserError, match=r"rollouts.prompts: expected a multiple of the 2 tags .*counting 3, colors 20"
    ):
        Dealer([*FEW, *MANY], 7, "tag", 0)
    assert len(Dealer([*FEW, *MANY], 7, "none", 0).deal(0)) == 7
    assert len(Dealer(PLAIN, 7, "tag", 0).deal(0)) == 7
