"""Each of the paper's recipes, end to end on checkpoints laid out as the hub's.

The recipe's own YAML, with nothing overridden but shapes, steps and paths: what is looked at before a run, the run of
each stage out of the one before, what it leaves, and a use of that. `pytest -s` prints the seconds of each recipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_layouts
import pytest
import tiny
import torch
from image_sets import add_member
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

import generation.dry_run
import generation.train
import tokenizer.dry_run
import tokenizer.train
import understanding.dry_run
import understanding.train
from common.config import load_config
from common.models.encoder_loading import load_encoder
from generation.config import GenerationConfig
from generation.extract_codes import extract
from tokenizer.config import TokenizerConfig
from understanding import internvl, preflight
from understanding.config import UnderstandingConfig
from vqrae import VQRAE, cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SIGLIP_512 = {"size": 24, "patch": 4}  # another grid than at 256 px, as there
TOKENIZERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "siglip2_so400m_256": hub_layouts.write_siglip2,
    "siglip2_so400m_512": lambda folder: hub_layouts.write_siglip2(folder, **SIGLIP_512),
    "internvit_300m_448": hub_layouts.write_internvl,
}
# Each layout of Vicuna once: `legacy` false, true and absent, both kinds of weights.
LANGUAGE_MODELS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "vicuna_7b_256": lambda folder: hub_layouts.write_vicuna(folder, legacy=False, weights="bin"),
    "vicuna_13b_256": lambda folder: hub_layouts.write_vicuna(folder, legacy=True, weights="bin"),
    "vicuna_7b_512": lambda folder: hub_layouts.write_vicuna(folder, legacy=None, weights="safetensors"),
    "vicuna_13b_512": lambda folder: hub_layouts.write_vicuna(folder, legacy=True, weights="safetensors"),
    "qwen2_5_7b": hub_layouts.write_qwen,
}
LAST: dict[str, Path] = {}
SECONDS: dict[str, float] = {}
ONE_STEP = "batch.global_size=4", "batch.micro_size=2", "data.workers=0"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Shards of pictures with captions, conversations about them, and what the walks before have left."""
    folder = tmp_path_factory.mktemp("hub")
    tiny.write_conversations(folder / "llava", count=8, text_only=2)
    write_shards(folder / "shards", tiny.write_pictures(folder / "pictures", count=24, size=40))
    yield folder
    print()
    for recipe, seconds in SECONDS.items():
        print(f"{recipe:<28}{seconds:6.1f} s")


def write_shards(folder: Path, pictures: Path) -> None:
    """Two tars, as img2dataset and BLIP3-o have them."""
    import tarfile

    folder.mkdir()
    files = sorted(pictures.iterdir())
    for number in range(2):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for path in files[number::2]:
                add_member(tar, path.name, path.read_bytes())
                add_member(tar, f"{path.stem}.txt", b"a photo of two bowls")


def recipe(kind: type[Any], job: str, name: str, *overrides: str) -> Any:
    """The recipe as it would be read from the command line."""
    return load_config(kind, ROOT / job / "recipes" / f"{name}.yaml", overrides)


def stated(prefix: str, architecture: dict[str, Any]) -> list[str]:
    return [f"{prefix}.{key}={json.dumps(value)}" for key, value in architecture.items()]


class Timed:
    """Notes the seconds of a recipe's walk."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        SECONDS[self.name] = time.perf_counter() - self.start


def tokenizer_of(shelf: Path, name: str) -> Path:
    """What the two stages of a tokenizer's recipes leave; made once."""
    if name in LAST:
        return LAST[name]
    hub = shelf / f"{name}_hub"
    architecture = TOKENIZERS[name](hub)
    siglip = architecture["model_type"] == "siglip_vision_model"
    patch = architecture["patch_size"] if siglip else 8  # InternViT: more pixels go out than come in
    side = architecture["image_size"] // architecture["patch_size"] * patch
    common = [
        *stated("model.encoder.architecture", architecture),
        f"model.encoder.source={hub}",
        *("model.codebook_size=32", "model.codebook_dim=16", f"model.output_patch_size={patch}"),
        *(f"data.image_size={side}", "data.sources=" + shards(shelf, 3)),
        *("loss.perceptual_model={preset: random_features}", "steps=2", *ONE_STEP),
        *(f"evaluation.images={shelf / 'pictures'}", "evaluation.limit=4", "model.codebook_start.images=16"),
        "evaluation.distances=[frechet_encoder, random_features]",  # those that need no weights
    ]
    stages = {
        f"{name}_stage1": [f"output={shelf / name}_stage1"],
        f"{name}_stage2": [
            f"output={shelf / name}_stage2",
            f"init_from={shelf / name}_stage1/model",
            *("loss.discriminator_start=1", "loss.discriminator_update_start=1"),
            "loss.discriminator_model={width: 8, stages: 1, pool: 2, norm_groups: 4}",
        ],
    }
    for stage, own in stages.items():
        with Timed(stage):
            config = recipe(TokenizerConfig, "tokenizer", stage, *common, *own)
            assert "global batch     4 = 2 micro" in tokenizer.dry_run.plan(config, 1)
            tokenizer.train.train(config)
            LAST[name] = Path(config.output) / "model"
    return LAST[name]


def shards(shelf: Path, count: int) -> str:
    source = f"{{kind: shards, path: {shelf / 'shards'}, weight: 1.0}}"
    return f"[{', '.join([source] * count)}]"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer(name: str, shelf: Path) -> None:
    """Both stages; then a photograph is encoded and decoded, and the encoder read by the class it came from."""
    model_folder = tokenizer_of(shelf, name)
    model = AutoModel.from_pretrained(model_folder).eval()
    assert isinstance(model, VQRAE)
    processor = AutoImageProcessor.from_pretrained(model_folder)
    with Image.open(shelf / "pictures" / "003.png") as picture:
        pixels = processor(picture.convert("RGB"), return_tensors="pt").pixel_values
    encoding = model.encode(pixels)
    rebuilt = model.decode(encoding.codes)
    assert rebuilt.shape == pixels.shape and rebuilt.isfinite().all()
    start = load_encoder(str(shelf / f"{name}_hub"))
    stage_1 = VQRAE.from_pretrained(shelf / f"{name}_stage1" / "model").encoder.state_dict()
    assert all(
        torch.equal(tensor, stage_1[key]) for key, tensor in start.state_dict().items()
    )  # frozen there
    stage_2 = model.encoder.state_dict()
    assert any(not torch.equal(tensor, stage_2[key]) for key, tensor in start.state_dict().items())


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_understanding(name: str, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pretraining and fine-tuning; then one answer through the command."""
    pixels = "256" if name.endswith("256") else "512"
    tower = tokenizer_of(shelf, f"siglip2_so400m_{pixels}")
    architecture = json.loads((tower / "config.json").read_text())["encoder_config"]
    sizes = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    language_model = LANGUAGE_MODELS[name](shelf / f"{name}_hub")
    common = [
        *stated("model.tower.architecture", {key: architecture[key] for key in sizes}),
        f"model.tower.source={tower}",
        *stated("model.language_model.architecture", language_model),
        f"model.language_model.source={shelf / name}_hub",
        *ONE_STEP,
    ]
    for stage, file_name in (("pretrain", "captions"), ("sft", "conversations")):
        start = f"init_from={shelf / name}_pretrain/model" if stage == "sft" else "init_from=null"
        own = [f"output={shelf / name}_{stage}", start]
        own += [
            f"data.sources.0.annotations={shelf / 'llava' / file_name}.json",
            "data.sources.0.samples=8",
        ]
        own += [f"data.sources.0.images={shelf / 'llava' / 'images'}"]
        with Timed(f"{name}_{stage}"):
            file = ROOT / "understanding" / "recipes" / f"{name}_{stage}.yaml"
            preflight.main(["--config", str(file), *common, *own])
            config = recipe(UnderstandingConfig, "understanding", f"{name}_{stage}", *common, *own)
            assert "2 (8 samples x 1 epochs" in understanding.dry_run.plan(config, 1)
            understanding.train.train(config)
    assert "8, of which 8 can be used" in capsys.readouterr().out
    model_folder = shelf / f"{name}_sft" / "model"
    picture = shelf / "llava" / "images" / "000.png"
    cli.dispatch(["ask", str(model_folder), str(picture), "What color is it?", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.endswith("\n")
    processor = AutoProcessor.from_pretrained(model_folder)
    alone = AutoTokenizer.from_pretrained(model_folder)
    assert processor.tokenizer("one bowl").input_ids == alone("one bowl").input_ids


def test_generation(shelf: Path) -> None:
    """Pictures are encoded, a generator trains on their codes, and draws one."""
    vqrae = tokenizer_of(shelf, "internvit_300m_448")
    saved = json.loads((vqrae / "config.json").read_text())
    language_model = hub_layouts.write_qwen(shelf / "qwen3_hub", "qwen3", tied=True, head_beside=True)
    text_vocabulary = language_model["vocab_size"] - hub_layouts.PADDED
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    encoder = {key: saved["encoder_config"][key] for key in sizes} | {"image_size": 28, "patch_size": 7}
    overrides = [
        *stated("model.tokenizer.encoder", encoder),
        *(
            f"model.tokenizer.source={vqrae}",
            "model.tokenizer.codebook_size=32",
            "model.tokenizer.codebook_dim=16",
        ),
        "model.tokenizer.output_patch_size=8",
        *stated("model.language_model.architecture", language_model),
        f"model.language_model.source={shelf / 'qwen3_hub'}",
        f"model.language_model.text_vocabulary={text_vocabulary}",
        *("data.image_size=32", "data.max_length=100", "data.sources=" + shards(shelf, 3)),
        f"data.codes={shelf / 'codes'}",
        *("steps=2", *ONE_STEP),
        *(f"evaluation.source={{kind: shards, path: {shelf / 'shards'}}}", "evaluation.limit=4"),
        *(f"output={shelf / 'qwen3_0_6b'}", "samples.per_prompt=1"),
    ]
    with Timed("qwen3_0_6b"):
        config = recipe(GenerationConfig, "generation", "qwen3_0_6b", *overrides)
        assert "4 x 4 = 16 image tokens" in generation.dry_run.plan(config, 1)
        extract(config, 4, 16)
        generation.train.train(config)
        model = shelf / "qwen3_0_6b" / "model"
        cli.dispatch(["generate", str(model), "a red bowl", "--out", str(shelf / "drawn"), "--device", "cpu"])
    with Image.open(
        next(path for path in (shelf / "drawn").rglob("*.png") if path.name != "sheet.png")
    ) as drawn:
        assert drawn.size == (32, 32)
    read = AutoModelForCausalLM.from_pretrained(model)
    assert read.config.vocab_size == text_vocabulary + 32 + 2 == len(AutoTokenizer.from_pretrained(model))


def test_internvl(shelf: Path) -> None:
    """The tower of InternVL3 becomes a tokenizer's encoder, and answers in its place there."""
    vqrae = tokenizer_of(shelf, "internvit_300m_448")
    source = shelf / "internvit_300m_448_hub"
    with Timed("internvl insert, answer"):
        internvl.main(["insert", str(vqrae), str(source), str(shelf / "internvl")])
        model, report = AutoModelForImageTextToText.from_pretrained(
            shelf / "internvl", dtype=torch.float32, output_loading_info=True
        )
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        processor = AutoProcessor.from_pretrained(shelf / "internvl")
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        with Image.open(shelf / "pictures" / "000.png") as picture:
            inputs = processor(images=[picture.convert("RGB")], text=[prompt], return_tensors="pt")
        answer = model.eval().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert 0 < answer.shape[1] - inputs["input_ids"].shape[1] <= 3
    encoder = VQRAE.from_pretrained(vqrae).encoder.model.state_dict()
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, encoder[name].bfloat16().float()), (
            name
        )  # in the precision of the checkpoint


def test_every_recipe_of_the_paper_is_walked() -> None:
    paper = {
        path.stem
        for job in ("tokenizer", "understanding", "generation")
        for path in (ROOT / job / "recipes").glob("*.yaml")
        if not path.stem.startswith("demo") and not path.stem.endswith(("lora", "imagenet", "deep"))
    }
    stages = {f"{name}_stage{stage}" for name in TOKENIZERS for stage in (1, 2)}
    stages |= {f"{name}_{stage}" for name in LANGUAGE_MODELS for stage in ("pretrain", "sft")}
    assert paper == {*stages, "qwen3_0_6b"} and len(paper) == 17
