"""A language model in few bits beneath its adapters: only that, what it learns, and what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from language_sides import batch_for, logits_of, parts
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from transformers.utils.import_utils import is_bitsandbytes_available

from common.config import load_config
from common.errors import UserError
from common.training.records import read_records
from common.training.state import TrainingState
from understanding import few_bits
from understanding.config import UnderstandingConfig
from understanding.dry_run import plan
from understanding.export import export_model, save_adapter
from understanding.few_bits import few_bits_bytes, few_bits_config, in_few_bits
from understanding.lora import is_adapter
from understanding.sizes import count_parameters, numel
from understanding.train import train

RECIPES = Path(__file__).parents[2] / "understanding" / "recipes"
BITS = (4, 8)
ADAPTER = "adapter_model.safetensors"
needs_bitsandbytes = pytest.mark.skipif(
    not is_bitsandbytes_available(), reason="the extra `bits` is not installed"
)


def adapters(bits: int | None, dropout: float = 0.0) -> str:
    return f"model.lora={{rank: 2, alpha: 8, dropout: {dropout}, bits: {'null' if bits is None else bits}}}"


def recipe(shelf: Path, output: Path, *overrides: str, kind: str = "llama") -> UnderstandingConfig:
    template = "vicuna_v1" if kind == "llama" else "qwen"
    chosen = (*tiny.FINE_TUNING, f"model.template={template}", "engine.zero_stage=2", *overrides)
    return tiny.understanding_recipe(shelf, output, *chosen, kind=kind)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def kind(request: pytest.FixtureRequest) -> str:
    """Qwen2's layers have biases, Qwen3's head is its embedding."""
    return str(request.param)


@pytest.fixture(scope="module")
def base(kind: str, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    export_model(folder, *parts(recipe(shelf, folder, "init_from=null", kind=kind)))
    return folder


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("bits", BITS)
def test_only_the_language_models_layers_are_in_few_bits(
    shelf: Path, base: Path, kind: str, bits: int, precision: str
) -> None:
    config = recipe(
        shelf, base, f"init_from={base}", adapters(bits), f"engine.precision={precision}", kind=kind
    )
    side, _, _ = parts(config)
    packed = {name: weight for name, weight in side.llava.named_parameters() if in_few_bits(weight)}
    assert len(packed) == 7 * 2 and all(".language_model.layers." in name for name in packed)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rest = [weight for name, weight in side.llava.named_parameters() if name not in packed]
    assert {weight.dtype for weight in rest} == {dtype}
    learns = {name for name, weight in side.llava.named_parameters() if weight.requires_grad}
    assert learns and all(is_adapter(name) or "multi_modal_projector" in name for name in learns)
    # The dry run's bytes are those that are there: weights, and every scale.
    held = 0
    for weight in packed.values():
        state = getattr(weight, "quant_state", None)
        scales = [weight.SCB] if state is None else [state.absmax, state.state2.absmax]
        held += sum(tensor.numel() * tensor.element_size() for tensor in (weight.data, *scales))
    counts = count_parameters(config.model)
    assert counts.few_bits_bytes == held
    assert counts.few_bits == sum(map(numel, packed.values()))


@needs_bitsandbytes
@pytest.mark.parametrize("bits", BITS)
def test_the_export_is_what_was_trained(
    shelf: Path, base: Path, kind: str, bits: int, tmp_path: Path
) -> None:
    """Merged into the weights that the adapters were trained on; as peft has it on the same bits."""
    side, tower, processor = parts(recipe(shelf, base, f"init_from={base}", adapters(bits), kind=kind))
    batch = batch_for(side)
    with torch.no_grad():
        for parameter in side.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    expected = logits_of(side, tower, batch)
    export_model(tmp_path / "merged", side, tower, processor)
    save_adapter(tmp_path / "adapter", side, str(base))
    torch.testing.assert_close(logits_of(side, tower, batch), expected)  # neither of them has changed it
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}
    assert "quantization_config" not in merged.config.to_dict()
    few = AutoModelForImageTextToText.from_pretrained(
        base, quantization_config=few_bits_config(bits, torch.float32), dtype=torch.float32
    )
    # Without dropout the same; bitsandbytes packs what is evaluated on some CPUs, in multiples of 32 alone.
    adapted = PeftModel.from_pretrained(few, tmp_path / "adapter").train()
    whole = AutoModelForImageTextToText.from_pretrained(base).eval()
    with torch.no_grad():
        found, peft, plain = (model(**batch).logits for model in (merged, adapted, whole))
    # LLM.int8 rounds what comes in, too; a merged model does not.
    tolerance = {"atol": 1e-5, "rtol": 1e-4} if bits == 4 else {"atol": 5e-2, "rtol": 5e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    torch.testing.assert_close(peft, expected, **tolerance)
    assert (plain - expected).abs().max() > 1e-2


def records(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    return read_records(run, kind)


@needs_bitsandbytes
@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
def test_a_resumed_run_equals_an_uninterrupted_one(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    """Held-out answers in between change nothing; what is frozen is in no checkpoint, neither weights nor scales."""
    held_out = f"{{annotations: {shelf / 'conversations.json'}, images: {shelf / 'images'}}}"
    often = (f"evaluation.source={held_out}", "logging.log_every=1", "logging.evaluate_every=1")

    def run(name: str) -> UnderstandingConfig:
        more = ("engine.precision=bf16", "engine.activation_checkpointing=true", "epochs=1", *often)
        return recipe(shelf, tmp_path / name, "init_from=null", adapters(bits, 0.1), *more)

    train(run("whole"))
    save = TrainingState.save

    def save_and_stop(self: TrainingState, checkpoints: Any, step: int) -> None:
        save(self, checkpoints, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingState, "save", save_and_stop)
        train(run("resumed"))
    train(run("resumed"))
    whole, resumed = (
        {line["step"]: line["loss"] for line in records(tmp_path / name)} for name in ("whole", "resumed")
    )
    assert resumed and len(whole) == 3 and resumed.items() <= whole.items()
    one, two = (load_file(tmp_path / name / "adapter" / ADAPTER) for name in ("whole", "resumed"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert any(two[name].any() for name in two if ".lora_B." in name)  # adapters have learned
    (file,) = (tmp_path / "whole" / "checkpoints" / "step_00000003" / "language_side").glob("mp_rank*")
    saved = torch.load(file, weights_only=False)["module"]
    assert saved and all(is_adapter(name) or "multi_modal_projector" in name for name in saved)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole" / "model")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_few_bits_are_not_shared_out(shelf: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.bits: ZeRO-3 cannot share out weights in few bits"):
        recipe(shelf, shelf, adapters(4), "engine.zero_stage=3")
    with pytest.raises(UserError, match=r"model\.lora\.bits: expected"):
        recipe(shelf, shelf, adapters(3))


def test_four_bits_are_llavas(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quant_type` and `double_quant` of its train.py."""
    monkeypatch.setattr(few_bits, "is_bitsandbytes_available", lambda: True)
    config = few_bits_config(4, torch.bfloat16)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16 and config.load_in_4bit
    assert few_bits_config(8, torch.bfloat16).load_in_8bit


def test_without_bitsandbytes(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_bits, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(
        UserError, match=r"bits: 4 needs the package bitsandbytes, .* or newer, which is not installed"
    ):
        parts(recipe(shelf, shelf, "init_from=null", adapters(4)))


def test_a_dry_run_counts_the_bytes_that_are_left() -> None:
    """Vicuna-7B on two GPUs, without bitsandbytes: half a byte a weight, and its scales."""
    config = load_config(UnderstandingConfig, RECIPES / "vicuna_7b_256_sft_qlora.yaml")
    page = plan(config, 2)
    layer = (4 * 4096 * 4096, 3 * 4096 * 11008)
    weights = 32 * sum(layer)
    scales = weights // 64
    kept = weights // 2 + scales + scales // 64
    assert f"of which {weights / 1e6:,.1f} M in 4 bits: {kept / 2**30:.1f} GiB" in page
    assert "ZeRO-3" not in page
    counts = count_parameters(config.model)
    assert (counts.few_bits, counts.few_bits_bytes) == (weights, kept)
    trained = counts.adapters + counts.projector
    rest = 2 * (counts.tower + counts.projector + counts.language_model - weights + counts.adapters)
    there = (kept + rest + 2 * trained / 2 + 12 * trained / 2) / 2**30
    assert f"ZeRO-2         {there:6.1f} GiB  <- this recipe" in page and there < 8


@pytest.mark.parametrize(("shape", "bits", "size"), [((64, 64), 4, 2048 + 64 + 4), ((3, 5), 8, 15 + 12)])
def test_bytes_of_a_weight(shape: tuple[int, int], bits: int, size: int) -> None:
    assert few_bits_bytes(*shape, bits) == size
