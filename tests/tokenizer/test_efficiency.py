"""Operations that are counted without computing anything, against those of a real step and against formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.config import load_config
from common.training import efficiency
from common.training.efficiency import attention_flops, weight_flops
from common.training.metrics import Stopwatch
from tokenizer import assemble
from tokenizer.config import TokenizerConfig
from tokenizer.efficiency import ImageFlops, TokenizerEfficiency, image_flops
from tokenizer.losses import LeCam
from tokenizer.objective import GeneratorObjective, discriminator_objective
from tokenizer.perceptual import build_perceptual

RECIPES = Path(__file__).parents[2] / "tokenizer" / "recipes"


@pytest.mark.parametrize("overrides", [(), tiny.STAGE_2, ("model.quantize=false",)])
def test_operations_are_those_of_a_real_step(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = tiny.tokenizer_recipe(tmp_path, tmp_path, *overrides)
    perceptual = build_perceptual(config.loss.perceptual_model)
    before = torch.get_rng_state()
    counted = image_flops(config, perceptual)
    assert torch.equal(torch.get_rng_state(), before)

    model = assemble.assemble_model(config)
    teacher, critic = assemble.assemble_teacher(model, config), assemble.assemble_discriminator(config)
    objective = GeneratorObjective(config.loss, model, teacher, perceptual, "fp32")
    pixels = torch.rand(config.batch.micro_size, 3, 16, 16)
    flops = []
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            output = model(pixels, quantize=config.model.quantize)
            fake = critic.requires_grad_(False)(output.reconstruction) if critic else None
            objective(output, pixels, fake)[0].backward()
        flops.append(counter.get_total_flops())
        if critic is not None:
            critic.requires_grad_(True)
            with FlopCounterMode(display=False) as counter:
                logits = critic(torch.cat([pixels, output.reconstruction.detach()]))
                discriminator_objective(*logits.chunk(2), LeCam(), config.loss.lecam)[0].backward()
            flops.append(counter.get_total_flops())
    expected = [counted.generator + counted.felt, *([counted.learning] if critic else [])]
    assert [flop / config.batch.micro_size for flop in flops] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("frozen", [True, False])
def test_operations_follow_the_formulas(frozen: bool) -> None:
    """Two layers of SigLIP2-so400m, K 16384 and E 1536, without losses through other networks."""
    stage = RECIPES / f"siglip2_so400m_256_stage{1 if frozen else 2}.yaml"
    small = ["model.encoder.architecture.num_hidden_layers=2", "loss.discriminator=0.0"]
    config = load_config(TokenizerConfig, stage, [*small, "loss.distillation=0.0"])
    model = assemble.model_on_meta(config.model)
    n, d, e, k = 256, 1152, 1536, 16384

    def layers(learns: bool) -> float:
        parameters = sum(p.numel() for p in model.decoder.layers.parameters())
        weights = weight_flops(parameters, learns=learns, passes_gradient=learns)
        return n * (weights + attention_flops(2, d, n, causal=False, passes_gradient=learns))

    patches = n * weight_flops(3 * 16 * 16 * d, learns=not frozen, passes_gradient=False)
    ends = n * weight_flops(e * d + 3 * 16 * 16 * d, learns=True)
    quantizer = n * (weight_flops(d * e, learns=True, passes_gradient=not frozen) + 2 * k * e)
    codes = n * weight_flops(e * e, learns=True, passes_gradient=False)  # chosen codes through W
    table = 2 * k * e * e / config.batch.micro_size  # all codes through W, once a micro-batch
    expected = layers(not frozen) + patches + layers(True) + ends + quantizer + codes + table
    assert image_flops(config, None).generator == pytest.approx(expected, rel=0.02)


def test_only_where_a_peak_is_known_there_is_mfu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.tokenizer_recipe(tmp_path, tmp_path, *tiny.STAGE_2)
    cpu = torch.device("cpu")
    monkeypatch.setattr("tokenizer.efficiency.image_flops", lambda *_: ImageFlops(8.0, 3.0, 1.0))
    for peak, keys in (
        (None, {"images_per_second", "data_wait"}),
        (1e3, {"images_per_second", "data_wait", "mfu"}),
    ):
        monkeypatch.setattr(efficiency, "peak_flops", lambda device, peak=peak: peak)
        ours, watch = TokenizerEfficiency(config, None, cpu), Stopwatch(cpu)
        watch.count(**ours.count(4, felt=False, learning=True))
        watch.count(**ours.count(2, felt=True, learning=True))
        rates = ours.rates(watch.take())
        assert set(rates) == keys
        if peak is not None:
            assert rates["mfu"] == pytest.approx(rates["images_per_second"] * (4 * 9 + 2 * 12) / 6 / peak)
