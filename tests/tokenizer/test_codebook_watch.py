"""A codebook that is used too little: said after some lines, and its dead codes come back where features are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from common.metrics.code_usage import CodeUsage
from common.models.quantizer import SimVQ
from tokenizer.codebook_revival import revive
from tokenizer.codebook_watch import CodebookWatch, CodebookWatchConfig

WIDTH, CODES, DIM = 12, 64, 16


def collapsed() -> tuple[SimVQ, Tensor]:
    """A quantizer whose W has learned, of whose codes all but 8 lie far off; and features (B, N, D)."""
    torch.manual_seed(0)
    quantizer = SimVQ(WIDTH, CODES, DIM)
    with torch.no_grad():
        quantizer.transform.weight.add_(0.2 * torch.randn(DIM, DIM))
        quantizer.codebook[8:] += 100.0
        quantizer.feature_mean.fill_(0.5)
    return quantizer, torch.randn(4, 32, WIDTH)


def usage_of(quantizer: SimVQ, features: Tensor) -> CodeUsage:
    usage = CodeUsage(CODES)
    usage.update(quantizer(features).codes)
    return usage


def test_revived_codes_are_recent_features_and_live_ones_untouched() -> None:
    quantizer, features = collapsed()
    usage = usage_of(quantizer, features)
    before, dead = quantizer.codebook.clone(), usage.counts == 0
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=1e-3)
    quantizer(features).commitment_loss.backward()
    optimizer.step()
    state = {name: value.clone() for name, value in optimizer.state[quantizer.transform.weight].items()}
    weight = quantizer.transform.weight.detach().clone()
    vectors = quantizer.lookup(torch.arange(CODES)).detach()

    assert revive(quantizer, dead, features, seed=1, step=10) == int(dead.sum()) > CODES // 2
    assert torch.equal(quantizer.codebook[~dead], before[~dead])
    assert torch.equal(quantizer.transform.weight, weight)
    assert all(torch.equal(optimizer.state[quantizer.transform.weight][name], state[name]) for name in state)
    after = quantizer.lookup(torch.arange(CODES)).detach()
    assert torch.equal(after[~dead], vectors[~dead])
    # Its code, not its row of C, is a feature.
    points = quantizer.embed(features).flatten(0, 1).detach()
    distances, which = (after[dead][:, None] - points).norm(dim=-1).min(1)
    assert distances.max() < 1e-4 and len(which.unique()) == int(dead.sum())

    now = usage_of(quantizer, features)
    assert (now.counts[dead] > 0).all()  # while live codes may lose all their features to them
    assert now.compute()["usage"] > 5 * usage.compute()["usage"]
    average = torch.nn.Linear(DIM, DIM, bias=False)  # the moving average has another W and the same C
    average.weight.data.lerp_(weight, 1.0).add_(1e-2 * torch.randn(DIM, DIM))
    quantizer.transform = average  # type: ignore[assignment]
    assert usage_of(quantizer, features).compute()["usage"] > 4 * usage.compute()["usage"]


def test_the_draw_follows_from_seed_and_step() -> None:
    found = []
    for seed, step in ((1, 10), (1, 10), (1, 11)):
        quantizer, features = collapsed()
        revive(quantizer, usage_of(quantizer, features).counts == 0, features, seed, step)
        found.append(quantizer.codebook.clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_fewer_features_than_dead_codes_and_bad_ones() -> None:
    quantizer, features = collapsed()
    dead = usage_of(quantizer, features).counts == 0
    before = quantizer.codebook.clone()
    assert revive(quantizer, dead, features[:1, :5], 1, 1) == 5
    assert int((quantizer.codebook != before).any(1).sum()) == 5
    before = quantizer.codebook.clone()
    assert revive(quantizer, dead, features * float("nan"), 1, 1) == 0
    assert torch.equal(quantizer.codebook, before)


def test_a_singular_transform_is_inverted_where_it_can_be() -> None:
    quantizer, features = collapsed()
    with torch.no_grad():
        quantizer.transform.weight[0] = 0.0
    dead = usage_of(quantizer, features).counts == 0
    revive(quantizer, dead, features, 1, 1)
    assert quantizer.codebook[dead].abs().max() < 1e3


@pytest.mark.parametrize(
    ("bounds", "low"), [({"min_usage": 0.2}, True), ({"min_perplexity": 9.0}, True), ({}, False)]
)
def test_a_warning_after_some_lines(bounds: dict[str, Any], low: bool) -> None:
    usage, said = CodeUsage(10), []
    config = CodebookWatchConfig(lines=2, revive=True, **bounds)
    watch = CodebookWatch(config, usage, said.append)
    found = []
    for code in (0, 1, 2, 3):
        usage.update(torch.full((40,), code))
        values, dead = watch.line()
        assert values["usage"] == pytest.approx(0.1)
        found.append(None if dead is None else dead.nonzero().flatten().tolist())
    # Dead is what no line of the run of low ones used.
    every = set(range(10))
    assert found == ([None, sorted(every - {0, 1}), None, sorted(every - {2, 3})] if low else [None] * 4)
    assert len(said) == (2 if low else 0)
    if low:
        assert "codebook_watch: usage 0.1 and perplexity 1 were too low for 2 lines; 8 of 10 codes" in said[0]


def test_few_tokens_are_no_low_usage() -> None:
    usage, said = CodeUsage(1000), []
    watch = CodebookWatch(CodebookWatchConfig(min_usage=0.9, lines=1), usage, said.append)
    usage.update(torch.arange(10))
    assert watch.line()[1] is None and not said


def test_a_resumed_run_knows_which_codes_were_used() -> None:
    config = CodebookWatchConfig(min_usage=0.9, lines=2, revive=True)
    watches = [CodebookWatch(config, CodeUsage(4), print) for _ in range(2)]
    watches[0].usage.update(torch.tensor([0, 0, 0, 0]))
    watches[0].line()
    watches[0].usage.update(torch.tensor([1, 1, 1, 1]))  # since the last line
    watches[1].load_state_dict(watches[0].state_dict())
    for watch in watches:
        watch.usage.update(torch.tensor([1, 1]))
        dead = watch.line()[1]
        assert dead is not None and dead.tolist() == [False, False, True, True]
