"""The recipe of one stage of understanding: one typed tree from which a run follows.

Pretraining and fine-tuning differ in these fields only: what is trained, the rates, the template, the data, and the
ZeRO stage.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from common.config import (
    Architecture,
    Count,
    Rate,
    Seed,
    Share,
    ShareBelowOne,
    Weight,
    Workers,
    between,
    configclass,
    stating,
)
from common.peers import ProcessConfig
from common.training.best import Scores, check_best
from common.training.checkpoint import CheckpointConfig
from common.training.engine import BatchConfig, EngineConfig
from common.training.guard import GuardConfig
from common.training.optim import AdamWConfig, MuonConfig
from common.training.recipe_change import SHARED, Rules
from common.training.reporter import LoggingConfig

Template = Literal["plain", "vicuna_v1", "qwen"]
Part = Literal["projector", "language_model"]
ImageFit = Literal["crop", "pad", "resize"]


@configclass
class TowerConfig:
    """The frozen vision tower.

    Args:
        source: a VQRAE's folder, whose encoder is taken, or a plain SigLIP tower as a folder or hub id.
        architecture: config fields of the tower, checked against `source`; dry runs need nothing else.
    """

    source: str
    architecture: Annotated[Architecture, stating("model_type", "hidden_size", "image_size", "patch_size")]


@configclass
class LanguageModelConfig:
    """Any causal language model of transformers.

    Args:
        source: a folder or hub id; its text tokenizer stands beside it.
        architecture: config fields of the model, checked against `source`.
        pad_token: an existing token to pad with, for text tokenizers that name none.
    """

    source: str
    architecture: Annotated[
        Architecture, stating("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    ]
    pad_token: str | None = None


@configclass
class LoRAConfig:
    """Low-rank adapters on every linear layer of the language model (arXiv 2106.09685); the rest of it stays frozen.

    Args:
        rank, alpha, dropout: as in the paper; LLaVA-1.5 trains with 128, 256 and 0.05, at 2e-4 (`optimizer.lr`) beside
            2e-5 for the projector (`optimizer.projector_lr`).
        bits: what the weights beneath are kept in: 4 (QLoRA) or 8, by bitsandbytes, which must be installed; null keeps
            them whole.
    """

    rank: Annotated[int, between(1, 2**16)]
    alpha: Count
    dropout: ShareBelowOne = 0.0
    bits: Literal[4, 8] | None = None


@configclass
class ModelConfig:
    """Tower, projector and language model (section 3.4 of the paper, Table 8)."""

    tower: TowerConfig
    language_model: LanguageModelConfig
    projector: Literal["mlp2x_gelu"]
    """Two linear layers with a GELU between: the projector of `LlavaForConditionalGeneration`."""
    projector_start: Literal["default", "standardized"] = "default"
    """A fresh projector's start: torch's own, as in LLaVA, or with the features' statistics folded in (ours; see
    `understanding/projector_start.py`)."""
    vision_select_layer: Literal[-1]
    """The last hidden state, before SigLIP's `post_layernorm` (decision 1)."""
    template: Template
    """How a conversation becomes text; see `understanding/conversation.py`."""
    image_fit: ImageFit = "pad"
    """How a picture becomes the tower's square: cut to its middle, padded with the tower's mean colour, stretched."""
    train: tuple[Part, ...]
    """What learns; the tower never does."""
    lora: LoRAConfig | None = None
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train: expected projector, language_model or both, found none")
        if self.lora is not None and set(self.train) != {"projector", "language_model"}:
            raise ValueError(
                "lora: adapters train the language model beside the projector; set both in train"
            )

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture: (S / p) squared."""
        size, patch = (int(self.tower.architecture[key]) for key in ("image_size", "patch_size"))
        return (size // patch) ** 2


@configclass
class ConversationSource:
    """One set of conversations, of any layout that `understanding/layouts.py` knows.

    Args:
        annotations: where they lie, by kind: `json`, a file (LLaVA's list, JSON Lines); `parquet`, `shards` (WebDataset
            tars), a folder, a glob or a brace range; `hub`, a Hugging Face id or folder.
        images: the folder that paths of pictures start from; null is the one that `annotations` lies in.
        samples: how many it holds, as published; dry runs count steps with it, and another number is an error. Null
            takes what is there.
        weight: how often each of its samples comes in an epoch; with 0.5, every other time.
        image_column: the field of the pictures (of shards, their ending). conversation_column: the field of the turns.
            Null takes the usual names.
        max_damaged_shards: of shards, those that may be left out because they cannot be read, of all.
        subset, split, revision: of a hub's dataset.
    """

    annotations: str
    images: str | None = None
    samples: Count | None = None
    kind: Literal["json", "parquet", "hub", "shards"] = "json"
    weight: Rate = 1.0
    image_column: str | None = None
    conversation_column: str | None = None
    max_damaged_shards: Share = 0.01
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.annotations:
            raise ValueError(
                "annotations: expected a file, a folder, a pattern or a dataset, found an empty string"
            )
        if self.kind != "hub" and (self.subset, self.split, self.revision) != (None, "train", None):
            raise ValueError(
                f"subset, split, revision: only `hub` sources have them, found kind {self.kind!r}"
            )


@configclass
class ConversationDataConfig:
    """Which conversations, and how they become batches.

    Args:
        max_length: tokens of a sample, its image tokens included; text beyond is cut, an image never is.
        group: what the samples of a batch have in common: nothing, a similar length, or also whether they have images
            (LLaVA-1.5's fine-tuning).
        packing: lay several samples in one row, isolated from each other, instead of padding them.
        max_skipped_share: share of missing, corrupt or unusable samples past which training stops.
    """

    sources: tuple[ConversationSource, ...]
    max_length: Count
    group: Literal["none", "length", "modality_length"]
    packing: bool = False
    workers: Workers = 4
    prefetch: Annotated[int, between(1, 1024)] = 2
    max_skipped_share: Share = 0.01

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: expected at least one source, found none")


@configclass
class OptimizerConfig:
    """A peak rate, a warm-up over a share of the steps, then a cosine (Table 8).

    Args:
        lr: of the language model or its adapters, and of the projector where it has none of its own.
        projector_lr: the projector's own (LLaVA-1.5 with adapters).
        warmup_ratio: the steps are rounded up.
        muon: for the matrices of the layers and the projector, in AdamW's place (ours).
    """

    lr: Rate
    projector_lr: Rate | None = None
    end_lr: Weight = 0.0
    warmup_ratio: Share
    adamw: AdamWConfig
    muon: MuonConfig | None = None

    def __post_init__(self) -> None:
        if self.muon is not None:
            self.muon.check(self.adamw)
            if self.projector_lr is not None:
                raise ValueError(
                    "projector_lr: expected null beside muon, which has the projector's matrices"
                )


@configclass
class HeldOutConfig:
    """Conversations that are measured and not trained on: loss, token accuracy, exact answers.

    Args:
        source: null measures nothing. limit: the first so many of it.
    """

    source: ConversationSource | None
    limit: Count = 512


@configclass
class UnderstandingConfig:
    """One stage of understanding."""

    output: str
    """The run's folder; see `common/training/run.py` for its layout."""
    seed: Seed
    init_from: str | None
    """A LLaVA folder (`RUN/model` of pretraining): projector and language model start from it, and its tower must be
    the one of `model.tower`. Null starts from `model.language_model.source` and a random projector."""
    epochs: Count
    resume: bool = True
    model: ModelConfig
    data: ConversationDataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig
    processes: ProcessConfig = ProcessConfig()
    guard: GuardConfig = GuardConfig()
    evaluation: HeldOutConfig

    @property
    def scores(self) -> Scores:
        """Those of its evaluations that `checkpoint.best` may name -> whether higher is better."""
        return {"loss": False, "token_accuracy": True, "exact": True}

    def __post_init__(self) -> None:
        check_best(self.checkpoint, self.logging, self.evaluation.source is not None, self.scores)
        if self.model.projector_start == "standardized" and self.engine.zero_stage == 3:
            raise ValueError(
                "model.projector_start: standardized needs zero_stage 0, 1 or 2, as in pretraining"
            )
        if self.model.lora is not None and self.model.lora.bits is not None and self.engine.zero_stage == 3:
            raise ValueError(
                "model.lora.bits: ZeRO-3 cannot share out weights in few bits; set engine.zero_stage to 2"
            )
        if self.optimizer.projector_lr is not None and "projector" not in self.model.train:
            raise ValueError("optimizer.projector_lr: the projector does not learn; see model.train")
        if self.optimizer.muon is not None:
            if self.engine.zero_stage == 3 or self.engine.offload != "none" or self.model.lora is not None:
                raise ValueError(
                    "optimizer.muon: expected zero_stage 0, 1 or 2, no offload and no lora beside it"
                )
            if self.optimizer.end_lr:
                raise ValueError("optimizer.end_lr: expected 0 beside muon, whose rate falls alike")
        if self.data.max_length <= self.model.image_tokens:
            raise ValueError(
                f"data.max_length: {self.data.max_length} leaves no room for text beside the "
                f"{self.model.image_tokens} tokens of one image"
            )


ON_RESUME: Final[Rules] = {
    **SHARED,
    "epochs": "applied",
    "data.max_skipped_share": "free",
    "optimizer.lr": "applied",
    "optimizer.projector_lr": "applied",
    "optimizer.end_lr": "applied",
    "optimizer.warmup_ratio": "applied",
    "optimizer.muon": "switch",
    "optimizer.muon.lr": "applied",
    "optimizer.muon.momentum": "applied",
}
"""What a resumed run may change, see `common/training/recipe_change.py`."""
