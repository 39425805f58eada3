"""The order of samples: permutations, and mixtures that keep their weights."""

from __future__ import annotations

from collections import Counter

import pytest

from common.data.mixture import Mixture, block_counts, locate
from common.data.order import dealt, derive_key, permutation, permuted


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 100, 1000, 1025])
def test_each_index_comes_once(length: int) -> None:
    for key in range(5):
        assert sorted(permuted(index, length, derive_key(key)) for index in range(length)) == list(
            range(length)
        )


def test_keys_give_different_orders() -> None:
    orders = {
        tuple(permuted(index, 100, derive_key(0, "epoch", epoch)) for index in range(100))
        for epoch in range(50)
    }
    assert len(orders) == 50


def test_every_place_is_equally_likely() -> None:
    """Chi-square over (index, place), within three deviations, for lengths where a weak network shows."""
    keys = 2000
    for length in (3, 5, 10, 37):
        seen = Counter(
            (i, permuted(i, length, derive_key(key))) for key in range(keys) for i in range(length)
        )
        expected = keys / length
        pairs = [(seen[i, j] - expected) ** 2 / expected for i in range(length) for j in range(length)]
        assert sum(pairs) / (length - 1) ** 2 < 1 + 3 * 2**0.5 / (length - 1), length


def test_all_orders_of_four_are_reached() -> None:
    assert len({tuple(permuted(i, 4, derive_key(key)) for i in range(4)) for key in range(1000)}) == 24


def test_an_index_in_a_set_of_any_size_is_immediate() -> None:
    assert 0 <= permuted(10**15, 10**18, derive_key(1)) < 10**18


def test_the_order_never_changes_between_versions() -> None:
    """A resumed run relies on these values: a change of them breaks every saved position."""
    assert [permuted(index, 10, derive_key(0, "epoch", 3)) for index in range(10)] == [
        0,
        1,
        3,
        2,
        7,
        8,
        9,
        4,
        6,
        5,
    ]
    assert [locate(position, (2, 1), seed=7, lanes=2) for position in range(6)] == [
        (1, 0), (0, 1), (0, 0), (1, 1), (0, 2), (0, 3)
    ]  # fmt: skip

    mixture = Mixture([27, 5, 4], lanes=2, seed=7)
    assert [mixture[position] for position in (0, 1, 35, 1000)] == [
        (0, 0, 657319525300008837),
        (0, 1, 657319525300008837),
        (0, 29, 657319525300008837),
        (1, 136, 414407381766726672),
    ]


def test_ranks_are_dealt_every_position_once() -> None:
    taken = [dealt(step, 3, rank, 2, start=5) for step in range(2) for rank in range(2)]
    assert taken == [[5, 7, 9], [6, 8, 10], [11, 13, 15], [12, 14, 16]]


def test_outside_of_the_range_is_refused() -> None:
    with pytest.raises(IndexError):
        permuted(10, 10, 0)


def test_counts_are_the_shortest_exact_block() -> None:
    assert block_counts([1.0]) == (1,)
    assert block_counts([0.5, 0.5]) == (1, 1)
    assert block_counts([27, 5, 4]) == (27, 5, 4)  # the millions of the paper's three sets
    assert block_counts([0.8, 0.15, 0.05]) == (16, 3, 1)


def test_counts_of_awkward_weights_are_close_and_never_zero() -> None:
    weights = [1.0, 2.0, 3.14159, 1e-7]
    counts = block_counts(weights)
    assert min(counts) == 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / sum(counts) - weight / sum(weights)) < 2e-3


@pytest.mark.parametrize("lanes", [1, 4, 64])
def test_mixture_keeps_its_weights_and_loses_nothing(lanes: int) -> None:
    counts = (5, 2, 1)
    blocks = 3
    places = [locate(position, counts, 0, lanes) for position in range(8 * lanes * blocks)]
    for block in range(blocks):
        part = places[8 * lanes * block : 8 * lanes * (block + 1)]
        assert Counter(source for source, _ in part) == {s: count * lanes for s, count in enumerate(counts)}
    for source, count in enumerate(counts):
        local = [place for drawn, place in places if drawn == source]
        assert sorted(local) == list(range(count * lanes * blocks))
        for lane in range(lanes):  # within a lane of the stream, a source is read forward
            mine = [
                place
                for number, (drawn, place) in enumerate(places)
                if drawn == source and number % lanes == lane
            ]
            assert mine == sorted(mine)
            assert {place % lanes for place in mine} == {lane}


def test_one_source_alone_is_read_in_its_own_order() -> None:
    assert [locate(position, (1,), 3, 64) for position in range(500)] == [
        (0, position) for position in range(500)
    ]


def test_mixture_differs_by_seed_and_block() -> None:
    def block(seed: int, number: int) -> tuple[int, ...]:
        return tuple(locate(36 * number + offset, (27, 5, 4), seed, 1)[0] for offset in range(36))

    assert len({block(0, 0), block(0, 1), block(1, 0)}) == 3


@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 1000, 4097])
def test_a_whole_permutation_is_that_of_its_indices(length: int) -> None:
    for key in (0, 7, 2**64 - 1):
        assert permutation(length, key).tolist() == [permuted(index, length, key) for index in range(length)]
