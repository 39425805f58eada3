"""The sampler draws what transformers' own `generate` draws, and the same whatever stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, Qwen3Config, Qwen3ForCausalLM
from transformers.generation.logits_process import (
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from generation import gumbel
from generation.sampler import Sampler, Sampling, picture_key
from generation.vocabulary import VisualVocabulary

TEXT, CODES, STEPS = 20, 32, 16
VOCABULARY = VisualVocabulary(
    offset=TEXT, codebook_size=CODES, grid=(4, 4), image_size=16, max_length=40, vqrae_sha256="0" * 64
)
BEGIN = VOCABULARY.begin_image
PROMPTS = [[3, 1, 4, 1, 5, BEGIN], [9, 2, BEGIN], [6, 5, 3, 5, BEGIN]]
NOTHING = [BEGIN]
KEYS = [picture_key(0, str(prompt), sample) for prompt in range(4) for sample in range(4)]


def make(dtype: torch.dtype = torch.float64, **changes: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY.rows,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        **changes,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**fields)).eval()
    for parameter in model.parameters():  # sharp enough for the prompt and the past to matter
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


@pytest.fixture(scope="module")
def model() -> Qwen3ForCausalLM:
    return make()


@pytest.fixture(scope="module")
def sampler(model: Qwen3ForCausalLM) -> Sampler:
    return Sampler(model, VOCABULARY)


def sample(sampler: Sampler, owners: Sequence[int], keys: Sequence[int] = (), **settings: Any) -> Tensor:
    return sampler.sample(PROMPTS, NOTHING, owners, keys or KEYS[: len(owners)], Sampling(**settings), STEPS)


class CodesOnly(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, VOCABULARY.code_slice] = 0
        return scores + allowed


def generated(model: Qwen3ForCausalLM, owners: Sequence[int], scale: float | None) -> Tensor:
    """Codes by `model.generate`, greedy, of a left-padded batch."""
    rows = [PROMPTS[owner] for owner in owners]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    processors = LogitsProcessorList()
    if scale is not None:
        nothing = torch.tensor([NOTHING] * len(rows))
        processors.append(UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, model, nothing))
    processors.append(CodesOnly())
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=mask,
            logits_processor=processors,
            do_sample=False,
            min_new_tokens=STEPS,
            max_new_tokens=STEPS,
            pad_token_id=0,
        )
    return VOCABULARY.ids_to_codes(out[:, width:])


# ---- parity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4, "attention_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
    ],
    ids=["tied", "untied", "no_groups_with_bias", "scaled_rotations"],
)
@pytest.mark.parametrize("scale", [None, 0.0, 1.7, 5.0])
def test_greedy_codes_are_those_of_transformers(scale: float | None, changes: dict[str, Any]) -> None:
    model = make(**changes)
    owners = [0, 1, 2, 1]
    ours = sample(Sampler(model, VOCABULARY), owners, greedy=True, cfg_scale=1.0 if scale is None else scale)
    theirs = generated(model, owners, scale)
    assert torch.equal(ours, theirs)
    assert len(ours.unique()) > (1 if scale == 0 else 4)  # else it would prove little


def test_logits_are_those_of_the_full_model(model: Qwen3ForCausalLM, sampler: Sampler) -> None:
    codes = sample(sampler, [0, 1], cfg_scale=1.0)
    decoder = sampler.decoder
    for prompt, row in zip(PROMPTS, codes, strict=False):
        ids = torch.tensor([[*prompt, *VOCABULARY.codes_to_ids(row).tolist()]])
        with torch.no_grad():
            full = model(ids).logits[0, :, VOCABULARY.code_slice]
        cache = decoder.new_cache(1, ids.shape[1])
        for slot in range(ids.shape[1]):
            bias = cache.causal_bias(slice(0, 1), slot, slot + 1)
            logits = decoder(
                ids[:, slot : slot + 1], cache, slice(0, 1), torch.tensor([slot]), slot + 1, bias
            )
            # transformers normalises in float32 whatever the model's type
            torch.testing.assert_close(logits[0], full[slot].float(), atol=1e-4, rtol=1e-5)


def test_float32_weights_are_repacked_without_a_change() -> None:
    single, double = (Sampler(make(dtype), VOCABULARY) for dtype in (torch.float32, torch.float64))
    assert torch.equal(sample(single, [0, 1, 2], cfg_scale=3.0), sample(double, [0, 1, 2], cfg_scale=3.0))


def test_bfloat16_runs() -> None:
    assert sample(Sampler(make(torch.bfloat16), VOCABULARY), [0, 1], cfg_scale=3.0).shape == (2, STEPS)


def test_the_length_seen_may_be_rounded_up(model: Qwen3ForCausalLM, sampler: Sampler) -> None:
    """The form that CUDA graphs record: fixed lengths, of which the end is hidden."""
    rounded = Sampler(model, VOCABULARY, stride=8)
    for settings in ({"cfg_scale": 4.0}, {"cfg_scale": 4.0, "cfg_interval": (0.3, 0.7)}, {"cfg_scale": 1.0}):
        assert torch.equal(sample(rounded, [0, 1, 2], **settings), sample(sampler, [0, 1, 2], **settings))


# ---- guidance --------------------------------------------------------------------------------------------


def by_hand(model: Qwen3ForCausalLM, prompt: list[int], key: int, sampling: Sampling) -> list[int]:
    """No cache, no batch, both halves at every step."""
    codes: list[int] = []
    for step, scale in enumerate(sampling.scales(STEPS)):
        tail = [VOCABULARY.first_code + code for code in codes]
        with torch.no_grad():
            c, u = (
                model(torch.tensor([[*start, *tail]])).logits[:, -1, VOCABULARY.code_slice].float()
                for start in (prompt, NOTHING)
            )
        logits = u + scale * (c - u)
        codes += gumbel.draw(logits, sampling, torch.tensor([key]), torch.tensor([step])).tolist()
    return codes


@pytest.mark.parametrize(
    "settings",
    [
        {"cfg_schedule": "linear"},
        {"cfg_schedule": "cosine", "cfg_interval": (0.2, 1.0)},
        {"cfg_interval": (0.0, 0.5)},
        {"cfg_interval": (0.05, 0.5)},
        {"cfg_interval": (0.5, 0.9), "greedy": True},
        {"cfg_interval": (0.5, 0.5)},
        {"cfg_interval": (0.9, 1.0), "cfg_scale": 0.0},
    ],
    ids=str,
)
def test_schedules_and_intervals(
    model: Qwen3ForCausalLM, sampler: Sampler, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.sampler.CATCH_UP_ROWS", 2)
    settings = {"cfg_scale": 4.0, **settings}
    codes = sample(sampler, [0, 1, 2], **settings)
    for prompt, key, row in zip(PROMPTS, KEYS, codes, strict=False):
        assert row.tolist() == by_hand(model, prompt, key, Sampling(**settings))


def test_the_unconditional_half_is_computed_where_it_is_used_only(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    call = sampler.decoder.__class__.__call__

    def counted(self: Any, ids: Tensor, *rest: Any) -> Tensor:
        if ids.shape[1] == 1:
            fed.append(len(ids))
        return call(self, ids, *rest)

    monkeypatch.setattr(sampler.decoder.__class__, "__call__", counted)
    sample(sampler, [0, 1], cfg_scale=3.0, cfg_interval=(0.25, 0.75))
    assert fed == [2] * 3 + [4] * 8 + [2] * 4  # code 0 comes from the prefill
    fed.clear()
    sample(sampler, [0, 1], cfg_scale=1.0)
    assert fed == [2] * (STEPS - 1)


def test_one_prefill_for_all_pictures_of_a_prompt(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    call = sampler.decoder.__class__.__call__

    def counted(self: Any, ids: Tensor, *rest: Any) -> Tensor:
        shapes.append(tuple(ids.shape))
        return call(self, ids, *rest)

    monkeypatch.setattr(sampler.decoder.__class__, "__call__", counted)
    sample(sampler, [0, 0, 0, 1, 1, 1], cfg_scale=3.0)
    assert shapes == [(3, 6)] + [(12, 1)] * (STEPS - 1)  # two prompts and the unconditional one


def test_scales() -> None:
    assert Sampling(cfg_scale=3.0, cfg_interval=(0.25, 0.75)).scales(8) == [
        1.0,
        1.0,
        3.0,
        3.0,
        3.0,
        3.0,
        1.0,
        1.0,
    ]
    assert Sampling(cfg_scale=3.0, cfg_schedule="linear").scales(4) == [1.5, 2.0, 2.5, 3.0]
    cosine = Sampling(cfg_scale=3.0, cfg_schedule="cosine").scales(4)
    assert cosine == pytest.approx([1.2929, 2.0, 2.7071, 3.0], abs=1e-4)


# ---- random numbers --------------------------------------------------------------------------------------


def test_a_picture_does_not_depend_on_its_neighbours(model: Qwen3ForCausalLM, sampler: Sampler) -> None:
    owners = [0, 0, 1, 1, 2, 2]
    keys = [picture_key(5, str(owner), sample) for owner, sample in zip(owners, [0, 1] * 3, strict=True)]
    settings = {"cfg_scale": 2.0, "top_k": 20, "top_p": 0.95}
    together = sample(sampler, owners, keys, **settings)
    assert len({tuple(row) for row in together.tolist()}) == 6
    alone = [sample(sampler, [owner], [key], **settings)[0] for owner, key in zip(owners, keys, strict=True)]
    assert torch.equal(torch.stack(alone), together)
    order = [4, 1, 5, 0]
    some = sample(sampler, [owners[i] for i in order], [keys[i] for i in order], **settings)
    assert torch.equal(some, together[order])


def test_buffers_are_used_again_without_a_trace(model: Qwen3ForCausalLM) -> None:
    used, fresh = Sampler(model, VOCABULARY, stride=32), Sampler(model, VOCABULARY, stride=32)
    sample(used, [0, 0], KEYS[4:6], cfg_scale=3.0)
    batch = used._batch
    assert torch.equal(sample(used, [1, 2], cfg_scale=3.0), sample(fresh, [1, 2], cfg_scale=3.0))
    assert used._batch is batch  # another longest prompt, the same rounded length


def test_noise_is_standard_gumbel_and_without_correlation() -> None:
    keys = torch.tensor([picture_key(0, "", sample) for sample in range(4)])
    codes = torch.arange(50_000).expand(4, -1)
    first, second = (gumbel.gumbel(keys, torch.tensor([step]), codes).double() for step in (0, 1))
    for noise in (*first, *second):
        assert abs(float(noise.mean()) - 0.5772) < 0.03 and abs(float(noise.var()) - 1.6449) < 0.06
    together = torch.corrcoef(torch.cat([first, second, first.roll(1, 1)]))
    assert float((together - torch.eye(12)).abs().max()) < 0.03


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    for settings in ({}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}):
        sampling = Sampling(**settings)
        keys = torch.tensor([picture_key(1, "", sample) for sample in range(20_000)])
        drawn = gumbel.draw(logits.expand(len(keys), -1), sampling, keys, torch.tensor([0]))
        expected = logits[None] / sampling.temperature
        if sampling.top_k:
            expected = TopKLogitsWarper(sampling.top_k)(None, expected)
        if sampling.top_p < 1:
            expected = TopPLogitsWarper(sampling.top_p)(None, expected)
        found = drawn.bincount(minlength=5) / len(keys)
        torch.testing.assert_close(found, expected.softmax(-1)[0], atol=0.012, rtol=0)


def test_known_draws() -> None:
    """Pictures stay the same from version to version."""
    assert picture_key(0, "a photo of a red circle", 0) == 8036331068207216973
    logits = torch.zeros(1, 16384)
    drawn = [
        int(gumbel.draw(logits, Sampling(), torch.tensor([8036331068207216973]), torch.tensor([step])))
        for step in range(4)
    ]
    assert drawn == [4588, 15220, 10360, 2990]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cfg_scale": -0.1}, "cfg_scale: expected 0 to 1000, found -0.1"),
        ({"cfg_scale": float("nan")}, "cfg_scale"),
        ({"cfg_schedule": "quadratic"}, "cfg_schedule"),
        ({"cfg_interval": (0.6, 0.4)}, "cfg_interval"),
        ({"cfg_interval": (0.0, 1.1)}, "cfg_interval"),
        ({"temperature": 0.0}, "temperature: expected 0.001 to 1000"),
        ({"top_k": 0}, "top_k: expected 1 or more"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sampling(**settings)


def test_calls_that_are_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="top_k: expected at most the 32 codes, found 33"):
        sample(sampler, [0], top_k=CODES + 1)
    with pytest.raises(ValueError, match="the model has 64 positions"):
        sampler.sample([[1] * 60 + [BEGIN]], NOTHING, [0], [0], Sampling(), STEPS)
    with pytest.raises(ValueError, match="found an empty one"):
        sampler.sample([[]], NOTHING, [0], [0], Sampling(), STEPS)
    with pytest.raises(ValueError, match="one key for each picture"):
        sampler.sample(PROMPTS, NOTHING, [], [], Sampling(), STEPS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding window"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    ],
)
def test_variants_that_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sampler(make(**changes), VOCABULARY)


def test_codes_may_take_part_in_training(sampler: Sampler) -> None:
    codes = sample(sampler, [0])
    table = torch.nn.Embedding(CODES, 4)
    table(codes).sum().backward()  # inference tensors would be refused here
    assert table.weight.grad is not None


# ---- weights that change -----------------------------------------------------------------------------------

REFRESHED = [0, 1, 2, 1]


def drawn(sampler: Sampler, **settings: Any) -> Tensor:
    return sampler.sample(PROMPTS, NOTHING, REFRESHED, KEYS[:4], Sampling(**settings), STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "attention_bias": True}])
def test_refreshed_is_as_new(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    model = make(dtype, **changes)
    sampler = Sampler(model, VOCABULARY, scored=True)
    before = drawn(sampler)
    products = [layer.qkv for layer in sampler.decoder.layers] + [sampler.decoder.head]
    held = [product.weight.data_ptr() for product in products if product.weight is not None]
    batch = sampler._batch
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # in place, as an optimizer does
            parameter.add_(0.2 * torch.randn_like(parameter))
    stale = drawn(sampler)
    sampler.refresh(model)
    assert torch.equal(drawn(sampler), drawn(Sampler(model, VOCABULARY)))
    assert not torch.equal(drawn(sampler), stale) and not torch.equal(drawn(sampler), before)
    assert [product.weight.data_ptr() for product in products if product.weight is not None] == held
    assert sampler._batch is batch  # no buffer was made anew


def test_another_model_is_no_refresh() -> None:
    sampler = Sampler(make(), VOCABULARY)
    with pytest.raises(ValueError, match="expected the model that this was made of"):
        sampler.refresh(make())


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (2.5, 0.7), (0.0, 1.0)])
def test_log_probs_are_those_of_the_full_model(scale: float, temperature: float) -> None:
    model = make()
    sampler = Sampler(model, VOCABULARY, scored=True)
    codes = drawn(sampler, cfg_scale=scale, temperature=temperature)
    assert sampler.log_probs is not None and sampler.log_probs.shape == codes.shape
    for row, owner in enumerate(REFRESHED):
        logits = []
        for prompt in (PROMPTS[owner], NOTHING):
            ids = torch.tensor([[*prompt, *(codes[row] + VOCABULARY.first_code).tolist()]])
            with torch.no_grad():
                logits.append(model(ids).logits[0, len(prompt) - 1 : -1, VOCABULARY.code_slice])
        mixed = (logits[1] + scale * (logits[0] - logits[1])) / temperature
        expected = mixed.log_softmax(-1).gather(1, codes[row][:, None])[:, 0]
        torch.testing.assert_close(sampler.log_probs[row].double(), expected, atol=1e-5, rtol=1e-5)
    assert Sampler(model, VOCABULARY).log_probs is None
