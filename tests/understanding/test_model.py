"""The language side is LLaVA's own model, and what it leaves behind needs nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from common.models.vision_encoder import VisionEncoder
from understanding import assemble
from understanding.config import UnderstandingConfig
from understanding.export import export_model
from understanding.model import grown_vocabulary
from understanding.objective import LanguageSide
from understanding.sizes import count_parameters, numel
from understanding.templates import IMAGE_TOKEN
from understanding.tower import load_tower, tower_hash

KINDS = ("llama", "qwen2", "qwen3")
TOKENS = (16 // 4) ** 2


class Built:
    """What a recipe is made of, and a right-padded batch for it: two images, one image, none."""

    def __init__(self, config: UnderstandingConfig) -> None:
        self.config = config
        self.tower: VisionEncoder = assemble.assemble_tower(config, torch.device("cpu"))
        self.processor: LlavaProcessor = assemble.assemble_processor(config, self.tower)
        torch.manual_seed(0)
        self.side: LanguageSide = assemble.assemble_language_side(
            config, self.tower, self.processor, {}, torch.device("cpu")
        )
        image = self.side.config.image_token_id
        rows = [
            [5, *[image] * TOKENS, 6, *[image] * TOKENS, 7, 8],
            [*[image] * TOKENS, 9, 10, 11],
            [12, 13, 14],
        ]
        length = max(map(len, rows))
        self.ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        self.mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        self.pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.places = self.mask.flatten().nonzero()[:, 0]

    def logits(self, ids: Tensor, features: Tensor | None, mask: Tensor) -> Tensor:
        """Of every place that is not padding, as the head gives them."""
        seen: list[Tensor] = []
        hook = self.side.llava.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output))
        with torch.no_grad():
            self.side(ids, features, self.places, torch.zeros_like(self.places), mask)
        hook.remove()
        return seen[0]


def build(shelf: Path, kind: str, *overrides: str) -> Built:
    template = "vicuna_v1" if kind == "llama" else "qwen"
    choices = (f"model.template={template}", "engine.zero_stage=1", *overrides)
    return Built(tiny.understanding_recipe(shelf, shelf / "run", *tiny.FINE_TUNING, *choices, kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_llavas_own(shelf: Path, tmp_path: Path, kind: str) -> None:
    built = build(shelf, kind)
    export_model(tmp_path / "model", built.side, built.tower, built.processor)
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        expected = whole(input_ids=built.ids, pixel_values=built.pixels, attention_mask=built.mask).logits
        features = built.tower.read(built.pixels)
    expected = expected.flatten(0, 1)[built.places]
    torch.testing.assert_close(built.logits(built.ids, features, built.mask), expected, atol=1e-6, rtol=1e-5)

    targets = torch.arange(len(built.places)) % 300
    with torch.no_grad():
        loss, predicted = built.side(built.ids, features, built.places, targets, built.mask)
    assert torch.equal(predicted, expected.argmax(-1))
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(expected, targets, reduction="sum")))
    for own, stored in zip(
        built.tower.model.parameters(), whole.model.vision_tower.parameters(), strict=True
    ):
        assert torch.equal(own, stored)


def test_features_are_what_llava_reads(shelf: Path, tmp_path: Path) -> None:
    built = build(shelf, "llama")
    export_model(tmp_path / "model", built.side, built.tower, built.processor)
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    seen: list[Tensor] = []
    whole.model.multi_modal_projector.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        whole.get_image_features(built.pixels)
        assert torch.equal(seen[0], built.tower.read(built.pixels))


def test_nothing_to_see_and_nothing_to_learn_run_the_same_modules(shelf: Path) -> None:
    built = build(shelf, "llama")
    used: dict[str, set[str]] = {}
    for name, module in built.side.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, name=name: used[case].add(name))
    none = torch.zeros(0, dtype=torch.long)
    cases: dict[str, tuple[Any, ...]] = {
        "all": (built.ids, built.tower.read(built.pixels), built.places, built.places % 7, built.mask),
        "no image": (built.ids[2:], None, none + 1, none, built.mask[2:]),
        "no image, targets": (
            built.ids[2:],
            torch.zeros(0, TOKENS, 16),
            torch.tensor([1]),
            torch.tensor([3]),
        ),
    }
    for case, batch in cases.items():
        used[case] = set()
        built.side.zero_grad()
        loss, predicted = built.side(*batch)
        assert predicted.shape == batch[3].shape
        loss.backward()
        gradients = [parameter.grad for parameter in built.side.parameters()]
        assert all(gradient is not None for gradient in gradients), case
        if case == "no image":
            assert loss == 0 and not any(gradient.any() for gradient in gradients)
        assert used[case] == used["all"]
    projector = built.side.llava.model.multi_modal_projector
    assert not any(parameter.grad.any() for parameter in projector.parameters())
    for parameter in projector.parameters():
        parameter.data.zero_()
    assert torch.isfinite(
        built.side(*cases["no image, targets"])[0]
    )  # even where there is nothing to count for nothing


def test_placeholders_and_images_must_agree(shelf: Path) -> None:
    built = build(shelf, "llama")
    features = built.tower.read(built.pixels)
    with pytest.raises(ValueError, match="48 image placeholders, but 32 features of 2 images"):
        built.side(built.ids, features[:2], built.places, built.places)
    with pytest.raises(ValueError, match="48 image placeholders, but 0 features"):
        built.side(built.ids, None, built.places, built.places)


def test_the_processor_expands_and_fits(shelf: Path) -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    for fit in ("crop", "pad", "resize"):
        built = build(shelf, "llama", f"model.image_fit={fit}")
        inputs = built.processor(images=[picture], text=f"a {IMAGE_TOKEN} b", return_tensors="pt")
        assert int((inputs["input_ids"] == built.side.config.image_token_id).sum()) == TOKENS
        pixels = inputs["pixel_values"][0]
        assert pixels.shape == (3, 16, 16)
        red, mean = torch.tensor([1.0, -1.0, -1.0]), torch.full((3,), 127 / 127.5 - 1)
        torch.testing.assert_close(pixels[:, 8, 8], red)
        # LLaVA: the mean colour above and below, nothing is cut off.
        torch.testing.assert_close(pixels[:, 0, 8], mean if fit == "pad" else red, atol=1e-5, rtol=0)
        assert built.processor._get_num_multimodal_tokens([(20, 40)])["num_image_tokens"] == [TOKENS]


def test_an_exported_folder_needs_no_code_of_ours(shelf: Path, tmp_path: Path) -> None:
    """All families in one process, since starting it costs most."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    cases = [("llama", "pad"), ("qwen2", "resize"), ("qwen3", "crop")]
    for kind, fit in cases:
        built = build(shelf, kind, f"model.image_fit={fit}")
        export_model(tmp_path / kind, built.side, built.tower, built.processor, shard_bytes=20_000)
        assert len(list((tmp_path / kind).glob("model-*.safetensors"))) > 1
    code = f"""
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
for kind in {[kind for kind, _ in cases]}:
    folder = {str(tmp_path)!r} + "/" + kind
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    processor = AutoProcessor.from_pretrained(folder)
    image = Image.open({str(tmp_path / "picture.png")!r})
    parts = [{{"type": "image", "image": image}}, {{"type": "text", "text": "What?"}}]
    inputs = processor.apply_chat_template([{{"role": "user", "content": parts}}], add_generation_prompt=True,
                                           tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        inputs["generated"] = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    torch.save({{**inputs, "logits": logits}}, folder + ".pt")
assert not {{"common", "tokenizer", "understanding", "vqrae"}} & {{name.split(".")[0] for name in sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, fit in cases:
        built = build(shelf, kind, f"model.image_fit={fit}")
        seen = torch.load(tmp_path / f"{kind}.pt")
        features = built.tower.read(seen["pixel_values"])
        built.places = torch.arange(seen["input_ids"].numel())
        logits = built.logits(seen["input_ids"], features, seen["attention_mask"])
        torch.testing.assert_close(logits, seen["logits"][0], atol=1e-6, rtol=1e-5)
        assert not (
            seen["generated"][0, seen["input_ids"].shape[1] :] == built.side.config.image_token_id
        ).any()
        assert seen["generated"][0, seen["input_ids"].shape[1]] == logits[-1, :-1].argmax()


def test_the_vocabulary_grows_only_where_it_must() -> None:
    assert grown_vocabulary(32000, 32001) == 32064  # Vicuna
    assert grown_vocabulary(152064, 151666) == 152064  # Qwen2.5: rows to spare


def test_stated_sizes_are_the_real_ones(shelf: Path) -> None:
    for kind in KINDS:
        built = build(shelf, kind)
        counts = count_parameters(built.config.model)
        assert counts.tower == sum(map(numel, built.tower.parameters()))
        assert counts.projector + counts.language_model == sum(map(numel, built.side.parameters()))
        assert counts.adapters == 0


def test_a_tower_is_known_by_its_hash(shelf: Path) -> None:
    tower = load_tower(str(shelf / "vqrae"), tiny.SIGLIP)
    before = tower_hash(tower)
    assert before == tower_hash(load_tower(str(shelf / "vqrae"), tiny.SIGLIP).to(torch.bfloat16))
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    tower.model.post_layernorm.bias.data[3] += 1
    assert before != tower_hash(tower)


def test_towers_that_do_not_fit(shelf: Path, tmp_path: Path) -> None:
    build_encoder(tiny.INTERNVIT).save_pretrained(tmp_path / "internvit")
    with pytest.raises(UserError, match=r"internvl\.py"):
        load_tower(str(tmp_path / "internvit"), tiny.INTERNVIT)
    with pytest.raises(UserError, match="hidden_size: the recipe states 32, the checkpoint has 16"):
        load_tower(str(shelf / "vqrae"), {**tiny.SIGLIP, "hidden_size": 32})
    with pytest.raises(UserError, match="no such folder"):
        load_tower(str(tmp_path / "gone"), tiny.SIGLIP)
    with pytest.raises(UserError, match="model_type: expected one of"):
        load_tower(str(shelf / "llama"), tiny.SIGLIP)
