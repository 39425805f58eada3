"""One small folder of each kind that this project leaves, made from a config, and what the model in memory says.

Nothing here reads a folder back: the figures to compare with come from models that were never saved. Weights are
larger than fresh ones, so that an error is not hidden in small logits; towers have a pooling head to be left out;
rotary bases are none that a reader would assume.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.foreign.case import ANSWER, TALK, TEXTS, Case, picture, talked, went_on, widen, with_picture
from benchmarks.foreign.text_tokenizers import llama_kind, qwen_kind
from common.language.causal_lm import config_of
from common.models.encoder_loading import build_encoder
from common.models.vision_encoder import VisionEncoder
from common.models.vqrae import VQRAE
from common.models.weight_files import state_sha256
from generation.model_folder import GeneratorFolder
from generation.vocabulary import VisualVocabulary, expand
from understanding import internvl
from understanding.config import LoRAConfig
from understanding.export import export_model, save_adapter
from understanding.lora import add_adapters
from understanding.model import llava_config
from understanding.objective import LanguageSide
from understanding.processor import build_processor
from understanding.text_tokenizer import prepare_text_tokenizer

SIZE, PATCH = 32, 8
TOKENS = (SIZE // PATCH) ** 2
BLOCK = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**BLOCK, "image_size": SIZE, "patch_size": PATCH}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}
INTERNVIT = {"model_type": "internvl_vision", **TOWER, "attention_bias": True}
HEADS = {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512}


@torch.no_grad()
def make_all(root: Path) -> Iterator[Case]:
    """Every kind of folder, below `root`."""
    torch.manual_seed(0)
    for name, architecture in (("SigLIP", SIGLIP), ("InternViT", INTERNVIT)):
        yield encoder_case(root / f"encoder_{name}", f"encoder, {name}", build_encoder(architecture))
    rotary = {"rope_theta": 3e5, "rope_type": "linear", "factor": 2.0}
    yield from llava_cases(root / "llava_llama", "llama", llama_kind(), "vicuna_v1", rope_parameters=rotary)
    rotary = {"rope_theta": 1e6, "rope_type": "default"}
    yield from llava_cases(root / "llava_qwen3", "qwen3", qwen_kind(), "qwen", "pad", rope_parameters=rotary)
    yield internvl_case(root)
    yield generator_case(root / "generator")


def encoder_case(folder: Path, name: str, encoder: VisionEncoder) -> Case:
    given = {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    widen(encoder)
    encoder.save_pretrained(folder)
    pixels = encoder.image_processor()(picture(), return_tensors="pt").pixel_values
    expected = {"logits": encoder.eval().read(given["pixel_values"]), "pixels": pixels}
    return Case(name=name, kind="tower", folder=folder, given=given, expected=expected)


def llava_cases(
    folder: Path,
    kind: str,
    text_tokenizer: PreTrainedTokenizerFast,
    template: str,
    fit: Any = "resize",
    **more: Any,
) -> Iterator[Case]:
    """What understanding leaves: the merged model, and adapters on a former one."""
    tower = build_encoder(SIGLIP)
    text_tokenizer = prepare_text_tokenizer(text_tokenizer, template)
    text = config_of(
        {"model_type": kind, **BLOCK, **HEADS, "vocab_size": len(text_tokenizer), **more}, "text"
    )
    image = text_tokenizer.convert_tokens_to_ids("<image>")
    llava = LlavaForConditionalGeneration(
        llava_config(tower.model.config, text, len(text_tokenizer), image, TOKENS)
    )
    llava.model.vision_tower = tower.model
    widen(llava)
    processor = build_processor(tower, text_tokenizer, fit)
    ids = [[5, 6, 7, *[image] * TOKENS, 8, 9, 10], [*[image] * TOKENS, 11, 12, 13, 14, 15, 16]]
    given = {"input_ids": torch.tensor(ids), "pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    yield _exported(f"LLaVA, {kind}", folder / "model", llava, tower, processor, given)
    if kind == "qwen3":
        llava = copy.deepcopy(llava)
        side = LanguageSide(llava)
        add_adapters(side, LoRAConfig(rank=4, alpha=8, dropout=0.0))
        for layer in side.modules():
            if isinstance(layer, LoraLayer):
                for matrices in (layer.lora_A, layer.lora_B):
                    for weight in matrices.to_empty(device="cpu").parameters():
                        nn.init.normal_(weight, std=0.1)
        save_adapter(folder / "adapter", side, str(folder / "model"))
        llava.model.vision_tower = tower.model
        expected = {"logits": llava.eval()(**given).logits}
        yield Case(
            name="LoRA adapter",
            kind="llava",
            folder=folder / "adapter",
            given=given,
            expected=expected,
            base=folder / "model",
        )


def _exported(
    name: str, folder: Path, llava: Any, tower: VisionEncoder, processor: Any, given: dict[str, Tensor]
) -> Case:
    words, pixels, logprobs = talked(llava.eval(), processor, suppress_tokens=[llava.config.image_token_id])
    expected = {"logits": llava(**given).logits, "pixels": pixels}
    side = LanguageSide(llava)  # takes the tower out
    export_model(folder, side, tower, processor)
    llava.model.vision_tower = tower.model
    return Case(
        name=name,
        kind="llava",
        folder=folder,
        given=given,
        expected=expected,
        words=words,
        questions={"talks": [with_picture(TALK, picture())], "length": ANSWER, "positions": 512},
        asked=words["asked"],
        answers=[words["answer"]],
        logprobs=logprobs,
    )


def internvl_case(root: Path) -> Case:
    """A checkpoint as on the hub, and a VQRAE's encoder written into it."""
    text = Qwen2Config(
        **BLOCK, num_key_value_heads=1, vocab_size=64, rope_theta=1e6, architectures=["Qwen2ForCausalLM"]
    )
    image, tokens = 60, TOKENS // 4  # four patches become a token
    config = InternVLConfig(
        vision_config=INTERNVIT,
        text_config=text,
        image_token_id=image,
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config).eval()
    widen(model)
    vqrae = VQRAE.from_encoder(build_encoder(INTERNVIT), 32, 64)
    widen(vqrae)
    model.save_pretrained(root / "internvl_source")
    vqrae.encoder.image_processor().save_pretrained(root / "internvl_source")
    vqrae.save_pretrained(root / "internvl_vqrae")
    internvl.insert(str(root / "internvl_vqrae"), str(root / "internvl_source"), root / "internvl")
    model.model.vision_tower.load_state_dict(vqrae.encoder.model.state_dict())
    given = {
        "input_ids": torch.tensor([[5, 6, *[image] * tokens, 7, 8]]),
        "pixel_values": torch.randn(1, 3, SIZE, SIZE),
    }
    expected = {"logits": model(**given).logits}
    return Case(name="InternVL", kind="internvl", folder=root / "internvl", given=given, expected=expected)


def generator_case(folder: Path) -> Case:
    text_tokenizer = qwen_kind()
    vqrae = VQRAE.from_encoder(build_encoder(SIGLIP), 32, 64)
    grid = (SIZE // PATCH, SIZE // PATCH)
    vocabulary = VisualVocabulary(
        offset=len(text_tokenizer),
        codebook_size=32,
        grid=grid,
        image_size=SIZE,
        max_length=64,
        vqrae_sha256=state_sha256(vqrae.state_dict()),
    )
    rotary = {"rope_theta": 100.0, "rope_type": "default"}
    config = Qwen3Config(
        **BLOCK, **HEADS, vocab_size=len(text_tokenizer), rope_parameters=rotary, tie_word_embeddings=True
    )
    model = Qwen3ForCausalLM(config).eval()
    expand(model, text_tokenizer, vqrae, vocabulary, "normal")
    widen(model)
    GeneratorFolder(
        model=model, text_tokenizer=text_tokenizer, vqrae=vqrae, vocabulary=vocabulary
    ).save_pretrained(folder)
    given = {"input_ids": torch.randint(0, vocabulary.rows, (2, 24))}
    return Case(
        name="generator",
        kind="generator",
        folder=folder,
        given=given,
        expected={"logits": model(**given).logits},
        words={"ids": text_tokenizer(TEXTS).input_ids},
        **went_on(model, given["input_ids"], ANSWER),
    )
