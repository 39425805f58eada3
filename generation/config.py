"""The generator's recipe: one typed tree from which a run follows.

`data.sources` says which pictures and captions; `data.codes` whether they are encoded while training (null) or were
before, by `generation/extract_codes.py` with this same recipe.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from common.config import Architecture, Count, Number, Rate, Seed, Share, between, configclass, stating
from common.data.config import DataConfig, SourceConfig
from common.errors import UserError
from common.models.quantizer_input import layers_problem
from common.peers import ProcessConfig
from common.text import checked
from common.training.best import Scores, check_best
from common.training.checkpoint import CheckpointConfig
from common.training.engine import BatchConfig, EngineConfig
from common.training.guard import GuardConfig
from common.training.optim import AdamWConfig, MuonConfig
from common.training.recipe_change import SHARED, Rules
from common.training.reporter import LoggingConfig
from generation.sampling import Sampling

NewEmbeddings = Literal["mean", "codebook", "normal"]
LossVocabulary = Literal["codes", "full"]

MARKS = 2  # begin_image and end_image, see `vocabulary`


@configclass
class TokenizerReference:
    """The frozen VQRAE whose codes are written.

    Args:
        source: its folder or hub id.
        encoder: config fields of its encoder. They, and the numbers below, are checked against `source`, so that dry
            runs need no network.
        precision: of its encoder while it encodes; the quantizer is always float32.
    """

    source: str
    encoder: Annotated[Architecture, stating("model_type", "hidden_size", "image_size", "patch_size")]
    codebook_size: Annotated[int, between(1, 2**16)]  # codes are packed in 16 bits
    codebook_dim: Annotated[int, between(1, 2**16)]
    output_patch_size: Count
    quantizer_layers: tuple[Number, ...] | None = None  # of its encoder's hidden states; null: the last alone
    precision: Literal["fp32", "bf16_autocast"]

    def __post_init__(self) -> None:
        if self.quantizer_layers is None:
            return
        depth = self.encoder.get("num_hidden_layers")
        if not isinstance(depth, int):
            raise ValueError("encoder: expected num_hidden_layers to be stated, since quantizer_layers is")
        if problem := layers_problem(self.quantizer_layers, depth):
            raise ValueError(f"quantizer_layers: {problem}")


@configclass
class LanguageModelConfig:
    """A Qwen3; in the paper, that of 0.6B.

    Args:
        source: a folder or hub id; null builds it with random weights.
        text_tokenizer: a folder or hub id; null takes what stands beside `source`.
        text_vocabulary: `len(text_tokenizer)`, where visual ids begin. Less than `vocab_size` where the embedding is
            padded, as Qwen's is.
        architecture: config fields of the model, checked against `source`.
    """

    source: str | None
    text_tokenizer: str | None = None
    text_vocabulary: Count
    architecture: Annotated[
        Architecture, stating("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    ]

    def __post_init__(self) -> None:
        if self.architecture["model_type"] != "qwen3":
            raise ValueError(
                f"architecture.model_type: expected 'qwen3', found {self.architecture['model_type']!r}"
            )
        if self.source is None and self.text_tokenizer is None:
            raise ValueError("text_tokenizer: expected a folder or hub id, since source is null")
        if not 1 <= self.text_vocabulary <= int(self.architecture["vocab_size"]):
            raise ValueError(
                f"text_vocabulary: expected 1 to architecture.vocab_size {self.architecture['vocab_size']}, "
                f"found {self.text_vocabulary}"
            )


@configclass
class ModelConfig:
    """Tokenizer and language model.

    Args:
        new_embeddings: where the rows of visual ids start from, see `vocabulary.expand`.
    """

    tokenizer: TokenizerReference
    language_model: LanguageModelConfig
    new_embeddings: NewEmbeddings
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


@configclass
class GenerationDataConfig(DataConfig):
    """Pictures with captions, and how they become sequences.

    Args:
        codes: folder of extracted codes, those of `sources` among them; null encodes while training.
        max_length: tokens of a sequence: text, N codes and two marks. A longer caption is cut, codes never are.
        prompt_dropout: share of captions left out, for classifier-free guidance.
    """

    crop: Literal["random", "center"] = "center"  # Table 9
    flip: bool = False  # it would make `left of` a lie
    codes: str | None = None
    max_length: Count
    prompt_dropout: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes is not None and (self.crop != "center" or self.flip):
            raise ValueError(
                "codes: extracted codes are those of unflipped centre crops; set crop and flip so"
            )


@configclass
class OptimizerConfig:
    """One rate for everything: linear warm-up, then constant (Table 9) or a half cosine to zero at the last step.

    Args:
        muon: for the matrices of the layers, in AdamW's place (ours).
    """

    lr: Rate
    schedule: Literal["constant", "cosine"]
    warmup_steps: Number
    adamw: AdamWConfig
    muon: MuonConfig | None = None

    def __post_init__(self) -> None:
        if self.muon is not None:
            self.muon.check(self.adamw)


@configclass
class SamplesConfig:
    """Pictures that are drawn while training, every `logging.picture_every` steps; the same noise each time.

    Args:
        prompts: none draws nothing.
        per_prompt: pictures for each.
    """

    prompts: tuple[str, ...]
    per_prompt: Annotated[int, between(1, 4096)]
    sampling: Sampling
    """Also what the exported generator brings along for all that draws with it."""

    def __post_init__(self) -> None:
        for number, prompt in enumerate(self.prompts):
            try:
                checked(prompt, f"prompts.{number}")
            except UserError as error:
                raise ValueError(str(error)) from error


@configclass
class HeldOutConfig:
    """Pictures with captions that are measured and not trained on.

    Args:
        source: null measures nothing. limit: the first so many of it.
    """

    source: SourceConfig | None
    limit: Count = 512


@configclass
class GenerationConfig:
    """The training of one generator."""

    output: str
    """The run's folder; see `common/training/run.py` for its layout."""
    seed: Seed
    init_from: str | None
    """A generator's folder (`RUN/model`) to go on from, with the same VQRAE; perhaps at another resolution. Null
    starts from `model.language_model`."""
    steps: Count
    resume: bool = True
    model: ModelConfig
    data: GenerationDataConfig
    loss_vocabulary: LossVocabulary
    """What the loss is normalised over: the K codes (decision 14), or all text and visual ids."""
    batch: BatchConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig
    processes: ProcessConfig = ProcessConfig()
    guard: GuardConfig = GuardConfig()
    samples: SamplesConfig
    evaluation: HeldOutConfig

    @property
    def scores(self) -> Scores:
        """Those of its evaluations that `checkpoint.best` may name -> whether higher is better."""
        return {"loss": False, "perplexity": False, "accuracy": True}

    def __post_init__(self) -> None:
        check_best(self.checkpoint, self.logging, self.evaluation.source is not None, self.scores)
        size, patch = self.data.image_size, self.model.tokenizer.output_patch_size
        if size % patch:
            raise ValueError(
                f"data.image_size: expected a multiple of model.tokenizer.output_patch_size {patch}, found {size}"
            )
        if self.text_room < 1:
            raise ValueError(
                f"data.max_length: {self.data.max_length} leaves no room for text beside {self.image_tokens} image "
                f"tokens and {MARKS} marks"
            )
        try:
            self.samples.sampling.check(self.model.tokenizer.codebook_size)
        except ValueError as error:
            raise ValueError(f"samples.sampling.{error}") from error
        if self.engine.zero_stage == 3:
            raise ValueError(
                "engine.zero_stage: the generator supports 0, 1 and 2 (its samples read whole weights)"
            )
        if self.optimizer.muon is not None and self.engine.offload != "none":
            raise ValueError(
                "engine.offload: expected none beside optimizer.muon: only AdamW's states can rest there"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) tokens of a picture."""
        side = self.data.image_size // self.model.tokenizer.output_patch_size
        return side, side

    @property
    def image_tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def text_room(self) -> int:
        """Text tokens of the longest caption."""
        return self.data.max_length - self.image_tokens - MARKS


ON_RESUME: Final[Rules] = {
    **SHARED,
    "steps": "applied",
    "data.max_corrupt_share": "free",
    "loss_vocabulary": "refused",
    "optimizer.lr": "applied",
    "optimizer.schedule": "applied",
    "optimizer.warmup_steps": "applied",
    "optimizer.muon": "switch",
    "optimizer.muon.lr": "applied",
    "optimizer.muon.momentum": "applied",
    "samples": "free",
    "samples.sampling": "applied",  # the exported generator brings it along
}
"""What a resumed run may change, see `common/training/recipe_change.py`."""
