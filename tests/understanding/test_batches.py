"""The order of samples, how they meet in batches, and that packed ones do not see each other."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from text_tokenizers import llama_text_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from understanding.batch_plan import BatchPlan, pack
from understanding.batches import Batch, collate, read_batch, training_batches
from understanding.config import ConversationSource
from understanding.dataset import ConversationDataset, Sample
from understanding.text_tokenizer import prepare_text_tokenizer

GROUPS = ("none", "length", "modality_length")
NO_PIXELS = torch.empty(0, 3, 4, 4)


def make_plan(count: int = 53, **options: Any) -> BatchPlan:
    rng = np.random.default_rng(count)
    lengths, images = rng.integers(5, 60, count), rng.integers(0, 2, count)
    usable = rng.random(count) < 0.9
    usable[0] = True
    return BatchPlan(lengths, images, **{"usable": usable, "global_size": 8, "seed": 3, **options})


PLANS = st.fixed_dictionaries(
    {
        "count": st.integers(1, 60),
        "global_size": st.sampled_from([1, 4, 8]),
        "seed": st.integers(0, 9),
        "group": st.sampled_from(GROUPS),
        "pack_length": st.sampled_from([None, 20, 100]),
    }
)


@settings(max_examples=80, deadline=None)
@given(options=PLANS, epochs=st.integers(1, 3))
def test_each_usable_sample_comes_once_an_epoch(options: dict[str, Any], epochs: int) -> None:
    plan = make_plan(**options)
    first = 0
    for epoch in range(1, epochs + 1):
        end = plan.steps(epoch)
        batches = [plan.units(step) for step in range(first, end)]
        samples = [index for units in batches for unit in units for index in unit]
        assert sorted(samples) == np.flatnonzero(make_usable(options)).tolist()
        assert all(len(units) == options["global_size"] for units in batches[:-1]) and batches[-1]
        assert plan.epoch(first) == epoch - 1 and plan.epoch(end - 1) < epoch
        first = end


def make_usable(options: dict[str, Any]) -> np.ndarray:
    return np.isin(np.arange(options["count"]), make_plan(**options)._usable)


@settings(max_examples=60, deadline=None)
@given(options=PLANS, world=st.sampled_from([1, 2, 4]), micro_size=st.sampled_from([1, 2]))
def test_ranks_share_a_batch_that_does_not_depend_on_them(
    options: dict[str, Any], world: int, micro_size: int
) -> None:
    options["global_size"] = 8
    plan = make_plan(**options)
    for step in range(plan.steps(1)):
        shares = [plan.share(step, rank, world, micro_size) for rank in range(world)]
        accumulation = 8 // (world * micro_size)
        assert all(len(share) == accumulation for share in shares)  # empty ones too, so that no rank waits
        in_turn = [units for parts in zip(*shares, strict=True) for units in parts]
        assert all(len(units) <= micro_size for units in in_turn)
        assert [unit for units in in_turn for unit in units] == plan.units(step)


def test_the_order_follows_from_the_seed() -> None:
    def order(plan: BatchPlan, start: int = 0) -> list[Any]:
        return [plan.units(step) for step in range(start, plan.steps(2))]

    for options in ({}, {"group": "modality_length"}, {"pack_length": 100}):
        plan = make_plan(**options)
        assert order(plan) == order(make_plan(**options))
        assert order(plan, 9) == order(make_plan(**options), 9)  # from the middle, with nothing drawn before
        assert order(plan) != order(make_plan(**options, seed=4))
        first, second = plan.units(0), plan.units(plan.steps(1))
        assert first != second


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    plan = BatchPlan(np.full(10, 5), np.zeros(10), usable=np.full(10, True), global_size=10, seed=0)
    assert plan.units(0) == [(8,), (3,), (2,), (6,), (4,), (0,), (5,), (7,), (9,), (1,)]


def epochs_of(plan: BatchPlan, count: int) -> list[Counter[int]]:
    """How often each sample comes in each epoch."""
    return [
        Counter(
            index
            for step in range(plan.steps(n), plan.steps(n + 1))
            for unit in plan.units(step)
            for index in unit
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("options", [{}, {"group": "modality_length"}, {"pack_length": 100}])
def test_a_weight_says_how_often_samples_come(options: dict[str, Any]) -> None:
    """Half of a source in each epoch, the other half in the next; two and a half times all of another."""
    usable = np.full(50, True)
    usable[[3, 30]] = False
    spans = [(0, 21, 0.5), (21, 40, 2.5), (40, 50, 1.0)]
    plan = make_plan(50, usable=usable, spans=spans, **options)
    first, second = epochs_of(plan, 2)
    halves = [{index for index in epoch if index < 21} for epoch in (first, second)]
    assert len(halves[0]) == len(halves[1]) == 10 and not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(range(21)) - {3}
    both = first + second
    assert {both[index] for index in range(21, 40) if index != 30} == {5}
    assert all(epoch[index] == 1 for epoch in (first, second) for index in range(40, 50))
    again = make_plan(50, usable=usable, spans=spans, **options)
    assert again.units(plan.steps(2)) == plan.units(plan.steps(2))  # with nothing drawn before
    assert epochs_of(make_plan(50, usable=usable, spans=spans, seed=4, **options), 1) != [first]


def test_weights_of_one_change_nothing() -> None:
    plain, spans = make_plan(50), [(0, 20, 1.0), (20, 50, 1.0)]
    stated = make_plan(50, spans=spans)
    assert [plain.units(step) for step in range(20)] == [stated.units(step) for step in range(20)]


def test_modalities_stay_apart() -> None:
    plan = make_plan(400, group="modality_length", global_size=16)
    kinds = []
    for step in range(plan.steps(1)):
        kinds.append({bool(plan._images[index]) for (index,) in plan.units(step)})
    assert sum(len(kind) == 2 for kind in kinds) <= 1
    single = [next(iter(kind)) for kind in kinds if len(kind) == 1]
    assert single != sorted(single) and single != sorted(single, reverse=True)  # batches come in random order


def test_similar_lengths_meet_yet_batches_stay_random() -> None:
    def padding(group: str) -> float:
        plan = make_plan(800, group=group, global_size=32)
        used = laid = 0
        for step in range(plan.steps(1)):
            for units in plan.share(step, 0, 1, 4):
                lengths = [plan._lengths[index] for (index,) in units]
                used, laid = used + sum(lengths), laid + max(lengths, default=0) * len(lengths)
        return 1 - used / laid

    assert padding("length") < 0.25 * padding("none")
    plan = make_plan(800, group="length", global_size=32)
    means = [np.mean([plan._lengths[index] for (index,) in plan.units(step)]) for step in range(20)]
    assert np.std(means) < 2 * np.std(plan._lengths) / 32**0.5  # as of samples drawn at random


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 120), min_size=1, max_size=200))
def test_packs_hold_what_fits(lengths: list[int]) -> None:
    order = np.random.default_rng(0).permutation(len(lengths))
    samples, sizes = pack(order, np.array(lengths), 100)
    assert sorted(samples) == list(range(len(lengths)))
    packs = np.split(samples, np.cumsum(sizes)[:-1])
    totals = [sum(lengths[index] for index in members) for members in packs]
    assert all(total <= 100 or len(members) == 1 for total, members in zip(totals, packs, strict=True))


def test_packs_are_full() -> None:
    lengths = np.random.default_rng(0).integers(50, 1500, 5000)
    _, sizes = pack(np.arange(5000), lengths, 2048)
    assert lengths.sum() / (len(sizes) * 2048) > 0.95


def test_nothing_to_plan() -> None:
    with pytest.raises(ValueError, match="no sample is usable"):
        BatchPlan(np.ones(2), np.ones(2), usable=np.zeros(2, bool), global_size=1, seed=0)


def sample(ids: list[int], learned: list[int], images: int = 0) -> Sample:
    return Sample(
        np.array(ids), np.isin(np.arange(len(ids)), learned), torch.full((images, 3, 4, 4), float(ids[0]))
    )


A, B = sample([1, 10, 11, 12], [2, 3], images=2), sample([2, 20, 21, 22, 23, 24], [2, 5])


def test_rows_are_padded_at_the_right() -> None:
    batch = collate([A, B], pad_id=9, no_pixels=NO_PIXELS, packed=False)
    assert batch["input_ids"].tolist() == [[1, 10, 11, 12, 9, 9], [2, 20, 21, 22, 23, 24]]
    assert batch["attention_mask"] is not None and batch["position_ids"] is None
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    check_targets(batch, predictors=[1, 2, 7, 10], targets=[11, 12, 21, 24])
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 1.0]
    assert batch["samples"] == 2 and batch["skipped"] == []


def test_packed_samples_share_a_row() -> None:
    batch = collate([A, B], pad_id=9, no_pixels=NO_PIXELS, packed=True)
    assert batch["input_ids"].tolist() == [[1, 10, 11, 12, 2, 20, 21, 22, 23, 24]]
    assert batch["attention_mask"] is None and batch["position_ids"] is not None
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]
    check_targets(batch, predictors=[1, 2, 5, 8], targets=[11, 12, 21, 24])


def check_targets(batch: Batch, predictors: list[int], targets: list[int]) -> None:
    assert batch["predictors"].tolist() == predictors and batch["targets"].tolist() == targets
    ids = batch["input_ids"].reshape(-1)
    assert torch.equal(ids[batch["predictors"] + 1], batch["targets"])
    assert batch["predictors"].dtype == batch["targets"].dtype == torch.int64


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_is_a_row_too(packed: bool) -> None:
    batch = collate([], pad_id=9, no_pixels=NO_PIXELS, packed=packed)
    assert batch["input_ids"].tolist() == [[9]]
    check_targets(batch, [], [])
    assert batch["pixel_values"].shape == (0, 3, 4, 4)
    given_positions = batch["position_ids"] if packed else batch["attention_mask"]
    assert given_positions is not None and given_positions.tolist() == [[0 if packed else 1]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_nothing_leaks_between_packed_samples(kind: str, attention: str) -> None:
    """The logits of a sample in a pack are those that it has alone, and those of a padded row."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    rng = np.random.default_rng(0)
    samples = [sample(rng.integers(1, 64, length).tolist(), [length - 1]) for length in (7, 3, 11, 2)]

    def logits(given: list[Sample], packed: bool) -> torch.Tensor:
        batch = collate(given, pad_id=0, no_pixels=NO_PIXELS, packed=packed)
        with torch.no_grad():
            return model(
                batch["input_ids"],
                attention_mask=batch["attention_mask"],
                position_ids=batch["position_ids"],
                use_cache=False,
            ).logits

    packed, padded = logits(samples, True)[0], logits(samples, False)
    starts = np.cumsum([0, *(len(one.ids) for one in samples)])
    for number, one in enumerate(samples):
        alone = logits([one], False)[0]
        torch.testing.assert_close(packed[starts[number] : starts[number + 1]], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded[number, : len(one.ids)], alone, atol=1e-4, rtol=1e-4)
    other = [samples[0], samples[1], sample([5] * 11, [10]), samples[3]]  # another neighbour changes nothing
    assert not torch.allclose(logits(other, True)[0], packed)
    torch.testing.assert_close(logits(other, True)[0, -2:], packed[-2:], atol=1e-4, rtol=1e-4)


def open_conversations(folder: Path) -> ConversationDataset:
    path = tiny.write_conversations(folder)
    source = ConversationSource(annotations=str(path), images=str(folder / "images"))

    def to_pixels(image: Image.Image) -> torch.Tensor:
        return torch.full((3, 4, 4), float(np.asarray(image).mean()))

    text_tokenizer = prepare_text_tokenizer(llama_text_tokenizer(), "vicuna_v1")
    return ConversationDataset(
        [source], text_tokenizer, to_pixels, image_tokens=3, image_size=4, max_length=400
    )


def plan_of(dataset: ConversationDataset, **options: Any) -> BatchPlan:
    return BatchPlan(
        dataset.lengths, dataset.images, usable=dataset.usable, seed=0, **{"global_size": 4, **options}
    )


@pytest.mark.parametrize("options", [{"group": "modality_length"}, {"pack_length": 400}])
def test_batches_do_not_depend_on_workers_or_where_one_starts(
    options: dict[str, Any], tmp_path: Path
) -> None:
    dataset = open_conversations(tmp_path)
    plan = plan_of(dataset, **options)
    steps = plan.steps(2)

    def read(rank: int, world: int, workers: int = 0, start: int = 0) -> list[list[Batch]]:
        return list(
            training_batches(
                dataset, plan, rank=rank, world=world, micro_size=2, packed="pack_length" in options,
                start=start, steps=steps, workers=workers, prefetch=1,
            )
        )  # fmt: skip

    whole = read(0, 1)
    assert len(whole) == steps and all(len(batches) == 2 for batches in whole)
    check_equal(whole, read(0, 1, workers=2))
    check_equal(whole[2:], read(0, 1, start=2))
    ranks = [read(rank, 2) for rank in range(2)]
    check_equal(whole, [first + second for first, second in zip(*ranks, strict=True)])
    assert sum(batch["samples"] for batches in whole for batch in batches) == 2 * len(dataset)


def check_equal(left: list[list[Batch]], right: list[list[Batch]]) -> None:
    assert len(left) == len(right)
    for one, other in zip(chain(*left), chain(*right), strict=True):
        for key, value in one.items():
            same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
            assert same, key


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    dataset = open_conversations(tmp_path)
    (tmp_path / "images" / "001.png").unlink()
    (tmp_path / "images" / "002.png").write_bytes(b"damaged")
    batch = read_batch(dataset, [(0,), (1, 2)], packed=False)
    assert batch["samples"] == 3 and len(batch["input_ids"]) == len(batch["pixel_values"]) == 1
    assert Counter(line.split(": ")[2] for line in batch["skipped"]) == {
        "missing image": 1,
        "corrupt image": 1,
    }
    assert all(line.startswith(f"{tmp_path / 'conversations.json'}: ") for line in batch["skipped"])
    nothing = read_batch(dataset, [(1,)], packed=True)
    assert nothing["input_ids"].shape == (1, 1) and len(nothing["targets"]) == 0 and nothing["samples"] == 1


def test_only_answers_are_targets(tmp_path: Path) -> None:
    dataset = open_conversations(tmp_path)
    records = json.loads((tmp_path / "conversations.json").read_text())
    text_tokenizer, *_ = dataset._encoding
    for index in (0, len(records) - 1):
        batch = read_batch(dataset, [(index,)], packed=False)
        answers = [turn["value"] for turn in records[index]["conversations"][1::2]]
        assert text_tokenizer.decode(batch["targets"]) == "</s> ".join([*answers, ""]).rstrip(" ")
