"""When too much of the data is damaged, and when not."""

from __future__ import annotations

import pytest

from common.data.corrupt import CorruptCounter
from common.errors import UserError


def test_a_share_of_a_known_whole_is_judged_by_the_whole() -> None:
    """One rank meets a tar of 300 damaged pictures first, of 40,000 that all ranks go through together."""
    rank = CorruptCounter(0.01, minimum=40_000)
    rank.add([f"bad.tar/{number}: truncated" for number in range(300)], 300)
    rank.check()
    rank.add(["bad.tar/300: truncated"] * 101, 101)  # 401: more than 1% of everything
    with pytest.raises(UserError, match=r"401 of 401 images could not be read"):
        rank.check()


def test_what_is_left_out_is_told_in_one_line() -> None:
    counter = CorruptCounter(0.5, "data.max_corrupt_share", minimum=1)
    counter.add([], 3)
    assert counter.check_together() == (0, "")
    counter.add(["a/1.png: empty", "a/2.png: truncated"], 2)
    assert counter.check_together() == (
        2,
        "2 of 5 images cannot be read and are left out: a/1.png: empty; a/2.png: truncated",
    )
    counter.add(["a/3.png: empty"], 1)
    with pytest.raises(UserError, match=r"3 of 6 .* allows \(0\.4\): a/1\.png: empty; a/2") as error:
        counter.max_share = 0.4
        counter.check_together()
    assert "\n" not in str(error.value)
