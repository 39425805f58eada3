"""The tokenizer's recipe: one typed tree from which a run follows.

The two stages of the paper differ in these fields only: `model.freeze_encoder`, `init_from`, the rates, and the
weights of the discriminator and of the distillation.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from common.config import Architecture, Count, Number, Rate, Seed, Weight, between, configclass, stating
from common.data.config import DataConfig
from common.models.quantizer import Gradient
from common.models.quantizer_input import layers_problem
from common.peers import ProcessConfig
from common.training.best import Scores, check_best
from common.training.checkpoint import CheckpointConfig
from common.training.engine import BatchConfig, EngineConfig
from common.training.guard import GuardConfig
from common.training.optim import AdamWConfig
from common.training.recipe_change import SHARED, Rules
from common.training.reporter import LoggingConfig
from tokenizer.codebook_watch import CodebookWatchConfig
from tokenizer.discriminator import DiscriminatorConfig
from tokenizer.perceptual import PerceptualConfig

Start = Literal["kmeans", "sample", "normal"]
Distance = Literal["lpips", "random_features", "rfid", "frechet_encoder"]


@configclass
class EncoderConfig:
    """The pretrained vision encoder.

    Args:
        source: hub id or local folder; null builds it with random weights.
        architecture: config fields of the encoder, `model_type` among them. Checked against `source`, so that dry
            runs and estimates need no network.
    """

    source: str | None
    architecture: Annotated[
        Architecture,
        stating(
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "image_size",
            "patch_size",
        ),
    ]


@configclass
class CodebookStartConfig:
    """Where statistics and first codes come from (`tokenizer/codebook_start.py`); used when `init_from` is null.

    Args:
        images: training images over all ranks whose features are measured.
        tokens_per_code: tokens sampled from them for each code, at most.
    """

    method: Start
    images: Count
    tokens_per_code: Count = 32


@configclass
class ModelConfig:
    """The shape of VQRAE (section 3 of the paper, Table 7)."""

    encoder: EncoderConfig
    freeze_encoder: bool
    codebook_size: Annotated[int, between(1, 2**24)]
    codebook_dim: Annotated[int, between(1, 2**16)]
    output_patch_size: Count
    codebook_start: CodebookStartConfig
    gradient: Gradient = "straight_through"
    quantizer_layers: tuple[Number, ...] | None = None
    """Numbers of the encoder's hidden states that are quantized, their mean after each is normalised per token
    (`common/models/quantizer_input.py`); null quantizes the last as it is, as the paper does."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantize: bool = True
    """False trains the continuous autoencoder, the upper bound of what codes can reach."""

    def __post_init__(self) -> None:
        depth = int(self.encoder.architecture["num_hidden_layers"])
        if problem := layers_problem(self.quantizer_layers, depth):
            raise ValueError(f"quantizer_layers: {problem}")

    @property
    def warning(self) -> str | None:
        """What a user should know of this shape before training it; None where there is nothing."""
        width = int(self.encoder.architecture["hidden_size"])
        if self.codebook_dim >= width:
            return None
        return (
            f"warning: model.codebook_dim: {self.codebook_dim} is less than the encoder's width {width}; the paper "
            "found such codes to collapse (Table 5): watch `usage`"
        )


@configclass
class LossConfig:
    """Weights of the terms; every squared term is a mean over all elements, pixels in [0, 1]."""

    reconstruction: Weight = 1.0
    codebook: Weight = 1.0
    commitment: Weight = 0.25
    perceptual: Weight
    perceptual_model: PerceptualConfig
    distillation: Weight
    """Self-distillation towards the encoder that the run started from; 0 loads no teacher."""
    quantizer_distillation: Weight = 0.0
    """The same for what the quantizer reads, where `model.quantizer_layers` makes that another thing than the
    features: the codes then stay those of the former encoder for longer."""
    discriminator: Weight
    """0 builds no discriminator."""
    discriminator_model: DiscriminatorConfig | None = None
    discriminator_start: Number | None = None
    """The step from which the generator feels the discriminator."""
    discriminator_update_start: Number | None = None
    """The step from which the discriminator learns; by default the same one. Earlier spares the generator an
    untrained opponent."""
    lecam: Weight = 0.001

    def __post_init__(self) -> None:
        if self.discriminator and (self.discriminator_model is None or self.discriminator_start is None):
            raise ValueError(
                "discriminator_model, discriminator_start: expected both, since discriminator is not 0"
            )
        terms = (self.reconstruction, self.codebook, self.commitment, self.perceptual)
        if not any((*terms, self.distillation, self.quantizer_distillation, self.discriminator)):
            raise ValueError(
                "reconstruction: expected a weight other than 0 here or in another term, found none"
            )
        if self.perceptual and self.perceptual_model.preset == "none":
            raise ValueError("perceptual: expected 0, since perceptual_model.preset is none")
        if self.first_discriminator_update > (self.discriminator_start or 0):
            raise ValueError("discriminator_update_start: expected no later than discriminator_start")

    @property
    def teaches(self) -> bool:
        """Whether a copy of the encoder is kept as the student's teacher."""
        return bool(self.distillation or self.quantizer_distillation)

    @property
    def first_discriminator_update(self) -> int:
        """The step of the discriminator's first update."""
        start = self.discriminator_start or 0
        return start if self.discriminator_update_start is None else self.discriminator_update_start


@configclass
class OptimizerConfig:
    """Peak rates by role; everything that is neither encoder nor discriminator learns with `decoder_lr`."""

    encoder_lr: Rate | None
    decoder_lr: Rate
    discriminator_lr: Rate | None
    end_lr: Weight
    warmup_steps: Number
    adamw: AdamWConfig


@configclass
class EvaluationConfig:
    """The held-out set: its images are centre-cropped and each is measured once.

    Args:
        images: a folder of images; null evaluates nothing.
        limit: the first so many images of it.
        distances: what is measured beside PSNR, SSIM and the use of codes (`tokenizer/distances.py`). `lpips` and
            `rfid` need weights; `random_features` and `frechet_encoder` have their forms and need none.
        inception_weights: FID's Inception; null is torch-fidelity's own download. LPIPS' VGG is that of the loss
            (`loss.perceptual_model.lpips_vgg_weights`).
    """

    images: str | None
    limit: Count = 512
    distances: tuple[Distance, ...] = ()
    inception_weights: str | None = None


@configclass
class TokenizerConfig:
    """One stage of tokenizer training."""

    output: str
    """The run's folder; see `common/training/run.py` for its layout."""
    seed: Seed
    init_from: str | None
    """A VQRAE folder (`RUN/model` of the stage before) to start from, loaded strictly; the teacher of the
    self-distillation is its encoder. Null starts from the pretrained encoder."""
    steps: Count
    resume: bool = True
    ema: bool
    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    loss: LossConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig
    processes: ProcessConfig = ProcessConfig()
    guard: GuardConfig = GuardConfig()
    codebook_watch: CodebookWatchConfig = CodebookWatchConfig()
    evaluation: EvaluationConfig

    @property
    def scores(self) -> Scores:
        """Those of its evaluations that `checkpoint.best` may name -> whether higher is better."""
        codes = {"usage": True, "perplexity": True} if self.model.quantize else {}
        return {"psnr": True, "ssim": True, **codes, **dict.fromkeys(self.evaluation.distances, False)}

    def __post_init__(self) -> None:
        check_best(self.checkpoint, self.logging, self.evaluation.images is not None, self.scores)
        if not self.model.freeze_encoder and self.optimizer.encoder_lr is None:
            raise ValueError("optimizer.encoder_lr: expected a rate, since model.freeze_encoder is false")
        for term in ("distillation", "quantizer_distillation"):
            if self.model.freeze_encoder and getattr(self.loss, term):
                raise ValueError(
                    f"loss.{term}: expected 0, since model.freeze_encoder is true and a frozen encoder cannot drift"
                )
        if self.model.quantizer_layers is None and self.loss.quantizer_distillation:
            raise ValueError(
                "loss.quantizer_distillation: expected 0, since model.quantizer_layers is null, so that the quantizer "
                "reads the features, which loss.distillation holds"
            )
        if self.loss.discriminator and self.optimizer.discriminator_lr is None:
            raise ValueError("optimizer.discriminator_lr: expected a rate, since loss.discriminator is not 0")
        if self.engine.precision == "bf16":
            raise ValueError(
                "engine.precision: the codebook needs float32 parameters; choose bf16_autocast or fp32"
            )
        if self.engine.zero_stage == 3:
            raise ValueError(
                "engine.zero_stage: the tokenizer supports 0, 1 and 2 (its moving average reads whole weights)"
            )
        image, patch = self.data.image_size, self.model.output_patch_size
        if image % patch:
            raise ValueError(
                f"data.image_size: expected a multiple of model.output_patch_size {patch}, found {image}"
            )


ON_RESUME: Final[Rules] = {
    **SHARED,
    "steps": "applied",
    "ema": "refused",
    "data.max_corrupt_share": "free",
    "codebook_watch": "applied",
    "loss.reconstruction": "applied",
    "loss.codebook": "applied",
    "loss.commitment": "applied",
    "loss.perceptual": "applied",
    "loss.perceptual_model": "applied",
    "loss.distillation": "applied",
    "loss.quantizer_distillation": "applied",
    "loss.discriminator": "switch",  # it brings an engine of its own
    "loss.discriminator_model": "refused",
    "loss.discriminator_start": "applied",
    "loss.discriminator_update_start": "applied",
    "loss.lecam": "applied",
    "optimizer.encoder_lr": "applied",
    "optimizer.decoder_lr": "applied",
    "optimizer.discriminator_lr": "applied",
    "optimizer.end_lr": "applied",
    "optimizer.warmup_steps": "applied",
}
"""What a resumed run may change, see `common/training/recipe_change.py`."""
