"""From a recipe to a generator: VQRAE, language model and text tokenizer, joined by the visual vocabulary; and to its
engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common import dist
from common.errors import UserError, refusing
from common.language.causal_lm import build_causal_lm, load_causal_lm, load_text_tokenizer
from common.models.strict_loading import check_architecture
from common.models.vqrae import VQRAE
from common.models.vqrae_loading import load_vqrae, vqrae_on_meta
from common.models.weight_files import resolve_folder, state_sha256
from common.training.engine import BatchConfig, EngineConfig, deepspeed_config, start_engine
from common.training.optim import constant_factor, cosine_factor, parameter_groups, with_muon
from generation.config import MARKS, GenerationConfig, ModelConfig, OptimizerConfig
from generation.model_folder import GeneratorFolder, load_generator
from generation.objective import NextCode
from generation.sampling_file import OF_A_RECIPE
from generation.vocabulary import CONFIG_KEY, VisualVocabulary, expand

ARCHITECTURE = "model.language_model.architecture"


def assemble_vqrae(config: ModelConfig) -> VQRAE:
    """The recipe's VQRAE, frozen, float32 on the CPU.

    Raises:
        UserError: absent, damaged, or of another architecture than the recipe states.
    """
    stated = config.tokenizer
    with refusing("model.tokenizer.source", UserError):
        vqrae, _ = load_vqrae(stated.source)
    check_architecture(vqrae.config.encoder_config, stated.encoder, stated.source)
    fields = ("codebook_size", "codebook_dim", "output_patch_size", "quantizer_layers")
    shape = {key: getattr(stated, key) for key in fields}
    check_architecture(vqrae.config, shape, stated.source, "model.tokenizer.")
    return vqrae.eval().requires_grad_(False)


def assemble_generator(config: GenerationConfig) -> GeneratorFolder:
    """What a run starts from, float32 on the CPU.

    Raises:
        UserError: something is absent, damaged, or of another architecture than the recipe states; or `init_from`
            writes the codes of another VQRAE.
    """
    vqrae = assemble_vqrae(config.model)
    vocabulary = VisualVocabulary(
        offset=config.model.language_model.text_vocabulary,
        codebook_size=config.model.tokenizer.codebook_size,
        grid=config.grid,
        image_size=config.data.image_size,
        max_length=config.data.max_length,
        vqrae_sha256=state_sha256(vqrae.state_dict()),
    )
    if config.init_from is not None:
        model, text_tokenizer = _former(config, config.init_from, vocabulary)
    else:
        model, text_tokenizer = _language_model(config.model)
        expand(model, text_tokenizer, vqrae, vocabulary, config.model.new_embeddings)
    if config.engine.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return GeneratorFolder(
        model=model,
        text_tokenizer=text_tokenizer,
        vqrae=vqrae,
        vocabulary=vocabulary,
        sampling=config.samples.sampling,
        origin=OF_A_RECIPE,
    )


def _former(config: GenerationConfig, source: str, vocabulary: VisualVocabulary) -> tuple[Any, Any]:
    """A trained generator to go on from. Resolution and room for text are the recipe's; ids and codes must agree."""
    with refusing("init_from", UserError):
        former = load_generator(source, torch.float32, config.model.attn_implementation)
    vocabulary.check_vqrae(former.vocabulary.vqrae_sha256, f"init_from: {source}")
    if former.vocabulary.offset != vocabulary.offset:
        raise UserError(
            f"init_from: {source}: model.language_model.text_vocabulary: the recipe states {vocabulary.offset}, the "
            f"checkpoint has {former.vocabulary.offset}"
        )
    stated = {key: v for key, v in config.model.language_model.architecture.items() if key != "vocab_size"}
    check_architecture(former.model.config, stated, f"init_from: {source}")
    setattr(former.model.config, CONFIG_KEY, vocabulary.to_config())
    return former.model, former.text_tokenizer


def _language_model(config: ModelConfig) -> tuple[Any, Any]:
    stated = config.language_model
    if stated.source is None:
        model = build_causal_lm(stated.architecture, ARCHITECTURE, config.attn_implementation)
    else:
        folder = resolve_folder(stated.source)
        model = load_causal_lm(folder, torch.float32, config.attn_implementation)
        check_architecture(model.config, stated.architecture, stated.source)
    beside = stated.text_tokenizer or stated.source
    assert beside is not None  # a recipe without either is refused
    return model, load_text_tokenizer(resolve_folder(beside))


def start_generator(model: NextCode, config: GenerationConfig) -> Any:
    """The engine around the language model with its loss."""
    return start_language_model(model, config.optimizer, config.engine, config.batch, config.steps)


def start_language_model(
    model: Any, rates: OptimizerConfig, engine: EngineConfig, batch: BatchConfig, steps: int
) -> Any:
    """The engine around a module whose `language_model` learns."""
    settings = deepspeed_config(engine, batch, dist.world(), rates.adamw.max_grad_norm)

    def schedule(group: dict[str, Any]) -> Callable[[int], float]:
        if rates.schedule == "cosine":
            return cosine_factor(rates.lr, 0.0, rates.warmup_steps, steps)
        return constant_factor(rates.warmup_steps)

    groups = parameter_groups("generator", [model], rates.lr, rates.adamw.weight_decay)
    if rates.muon is not None:
        groups = with_muon(groups, rates.muon, model.language_model.get_output_embeddings().weight)
    return start_engine(model, groups, schedule, rates.adamw.betas, rates.adamw.eps, settings)


def generator_on_meta(config: ModelConfig) -> tuple[Any, VQRAE]:
    """The recipe's language model with its visual rows, and its VQRAE, without weights: to be counted."""
    stated, tokenizer = config.language_model, config.tokenizer
    rows = stated.text_vocabulary + tokenizer.codebook_size + MARKS
    with torch.device("meta"):
        model = build_causal_lm({**stated.architecture, "vocab_size": rows}, ARCHITECTURE)
    sizes = (tokenizer.codebook_size, tokenizer.codebook_dim, tokenizer.output_patch_size)
    return model, vqrae_on_meta(tokenizer.encoder, *sizes, quantizer_layers=tokenizer.quantizer_layers)
