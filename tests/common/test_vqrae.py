"""The model's contract: round trips, saved equals loaded, and the features that downstream classes read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoImageProcessor, AutoModel

from common.data.images import to_pil
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE

FAMILIES = [pytest.param(tiny.SIGLIP, 4, id="siglip"), pytest.param(tiny.INTERNVIT, 8, id="internvit")]


def make(architecture: dict[str, Any], patch: int) -> VQRAE:
    torch.manual_seed(0)
    model = VQRAE.from_encoder(build_encoder(architecture), 64, 24, patch).eval()
    for parameter in model.parameters():  # away from the start, where much is zero
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("architecture", "patch"), FAMILIES)
@pytest.mark.parametrize("grid", [(4, 4), (2, 6)])
def test_encode_then_decode_equals_forward(
    architecture: dict, patch: int, grid: tuple[int, int], tmp_path: Path
) -> None:
    model = make(architecture, patch)
    pixels = torch.rand(2, 3, grid[0] * patch, grid[1] * patch)

    def check(model: VQRAE) -> torch.Tensor:
        out, encoded = model(pixels), model.encode(pixels)
        assert out.reconstruction.shape == pixels.shape and encoded.codes.shape == (2, *grid)
        assert torch.equal(out.codes, encoded.codes) and torch.equal(out.features, encoded.features)
        torch.testing.assert_close(model.decode(encoded.codes), out.reconstruction.clamp(0, 1))
        torch.testing.assert_close(
            model.decode_features(encoded.features, grid), out.reconstruction.clamp(0, 1)
        )
        return out.reconstruction

    before = check(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, VQRAE) and not loaded.training
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in loaded.state_dict().items()
    }
    assert torch.equal(check(loaded), before)


def test_the_saved_image_processor_gives_pixels_in_0_1(tmp_path: Path) -> None:
    model = make(tiny.INTERNVIT, 8)
    model.save_pretrained(tmp_path)
    pixels = torch.rand(3, 32, 40)
    values = AutoImageProcessor.from_pretrained(tmp_path)(to_pil(pixels), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 32, 32)
    torch.testing.assert_close(values[0], pixels[:, :, 4:36], atol=0.5 / 255 + 1e-6, rtol=0)


def test_features_are_what_llava_reads() -> None:
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    model = make(tiny.SIGLIP, 4)
    text = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=32,
    )
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=model.encoder.model.config,
            text_config=text,
            image_token_index=31,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    ).eval()
    llava.model.vision_tower.load_state_dict(model.encoder.model.state_dict())
    pixels, seen = torch.rand(2, 3, 16, 16), []
    llava.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    llava.get_image_features(pixel_values=model.encoder.normalize(pixels))
    torch.testing.assert_close(seen[0], model.encode(pixels).features, atol=1e-6, rtol=1e-5)


def test_features_are_what_internvl_reads() -> None:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config

    model = make(tiny.INTERNVIT, 7)
    text = Qwen2Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=32,
    )
    internvl = InternVLForConditionalGeneration(
        InternVLConfig(vision_config=model.encoder.model.config, text_config=text, image_token_id=31)
    ).eval()
    internvl.model.vision_tower.load_state_dict(model.encoder.model.state_dict())
    pixels, seen = torch.rand(2, 3, 28, 28), []
    original = internvl.model.pixel_shuffle
    internvl.model.pixel_shuffle = lambda x, scale_factor: (seen.append(x), original(x, scale_factor))[1]
    internvl.get_image_features(pixel_values=model.encoder.normalize(pixels))
    torch.testing.assert_close(seen[0].flatten(1, 2), model.encode(pixels).features, atol=1e-6, rtol=1e-5)


def test_without_quantization_the_decoder_sees_projected_features() -> None:
    model, pixels = make(tiny.SIGLIP, 4), torch.rand(1, 3, 16, 16)
    out = model(pixels, quantize=False)
    expected = model.decoder(model.quantizer.embed(out.features), (4, 4))
    assert out.codes is None and torch.equal(out.reconstruction, expected)


def test_every_token_writes_its_own_square() -> None:
    from common.models.pixel_decoder import squares_to_image

    image = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    squares = torch.stack(
        [image[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1) for y in range(2) for x in range(3)],
        dim=1,
    )
    assert torch.equal(squares_to_image(squares, (2, 3)), image)


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 3, 16, 2), (1, 3, 0, 16)])
def test_sides_that_no_patch_fits_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        make(tiny.SIGLIP, 4).encode(torch.rand(shape))


@pytest.mark.parametrize(
    "codes", [torch.full((1, 4, 4), 64), torch.full((1, 4, 4), -1), torch.zeros(4, 4, dtype=torch.long)]
)
def test_codes_out_of_range_are_refused(codes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="codes: expected"):
        make(tiny.SIGLIP, 4).decode(codes)


def test_codes_survive_bf16_autocast_and_saving(tmp_path: Path) -> None:
    model, pixels = make(tiny.SIGLIP, 4), torch.rand(4, 3, 16, 16)
    model.save_pretrained(tmp_path)
    loaded = VQRAE.from_pretrained(tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode(pixels).codes, loaded.encode(pixels).codes)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_that_is_asked_for_is_used(attention: str, tmp_path: Path) -> None:
    model = VQRAE.from_encoder(build_encoder(tiny.SIGLIP, attention), 64, 24)
    model.save_pretrained(tmp_path)
    for vqrae in (model, VQRAE.from_pretrained(tmp_path, attn_implementation=attention)):
        used = {
            m.config._attn_implementation for m in vqrae.modules() if type(m).__name__ == "SiglipAttention"
        }
        assert used == {attention}
