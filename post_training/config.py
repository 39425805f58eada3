"""The recipe of a post-training: one typed tree from which a run follows."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from common.config import Architecture, Count, Rate, Seed, between, configclass, stating
from common.peers import ProcessConfig
from common.training.best import Scores, check_best
from common.training.checkpoint import CheckpointConfig
from common.training.engine import BatchConfig, EngineConfig
from common.training.guard import GuardConfig
from common.training.recipe_change import SHARED, Rules
from common.training.reporter import LoggingConfig
from evals.scorers.config import ScorerConfig, check_scorers
from generation.config import (
    MARKS,
    LanguageModelConfig,
    ModelConfig,
    OptimizerConfig,
    SamplesConfig,
    TokenizerReference,
)
from generation.sampling import Sampling
from post_training.methods.config import DPOConfig, GRPOConfig, RejectionConfig


@configclass
class GeneratorReference:
    """What `init_from` holds: checked against it, so that dry runs need no weights.

    Args:
        tokenizer: the VQRAE whose codes it writes.
        text_vocabulary: text tokens, where visual ids begin.
        architecture: config fields of its Qwen3, as the recipe that trained it states them.
        image_size: side of its pictures in pixels.
        max_length: tokens of its longest sequence: text, N codes and two marks.
    """

    tokenizer: TokenizerReference
    text_vocabulary: Count
    architecture: Annotated[
        Architecture, stating("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    ]
    image_size: Count
    max_length: Count
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    def __post_init__(self) -> None:
        if self.image_size % self.tokenizer.output_patch_size:
            raise ValueError(
                f"image_size: expected a multiple of tokenizer.output_patch_size {self.tokenizer.output_patch_size}, "
                f"found {self.image_size}"
            )
        if self.max_length <= self.image_tokens + MARKS:
            raise ValueError(
                f"max_length: {self.max_length} leaves no room for text beside {self.image_tokens} codes"
            )
        self.as_trained()  # states what a generator's recipe must

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) tokens of a picture."""
        side = self.image_size // self.tokenizer.output_patch_size
        return side, side

    @property
    def image_tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    def as_trained(self) -> ModelConfig:
        """`model` of a recipe that would train such a generator from scratch."""
        language_model = LanguageModelConfig(
            source=None,
            text_tokenizer="",
            text_vocabulary=self.text_vocabulary,
            architecture=self.architecture,
        )
        return ModelConfig(
            tokenizer=self.tokenizer,
            language_model=language_model,
            new_embeddings="mean",
            attn_implementation=self.attn_implementation,
        )


@configclass
class MadePrompts:
    """Prompts made by rule in GenEval's six tags, none of them a benchmark's.

    Args:
        per_tag: how many of each tag.
    """

    per_tag: Count
    seed: Seed = 0


@configclass
class PromptsConfig:
    """What is drawn and learned from: of a file, or made by rule.

    Args:
        file: one prompt a line, or .jsonl with GenEval's metadata; benchmarks' prompts are refused.
        made: in the place of `file`.
        without: files of prompts that are left out, such as those that are to be measured afterwards.
        balance: `tag`: each step has as many prompts of each of GenEval's tags; `none`: all alike.
    """

    file: str | None = None
    made: MadePrompts | None = None
    without: tuple[str, ...] = ()
    balance: Literal["tag", "none"] = "tag"

    def __post_init__(self) -> None:
        if (self.file is None) == (self.made is None):
            raise ValueError("file: expected a file, or made in its place, and not both")


@configclass
class RolloutsConfig:
    """The pictures of a step, over all ranks.

    Args:
        prompts: of a step. group: pictures of each.
        cfg_scale: guidance s: the policy is the softmax of u + s (c - u), and both of its rows learn. 1: c alone.
        temperature: divides these logits, in drawing and in learning.
        batch_size: pictures that a rank draws at once.
    """

    prompts: Annotated[int, between(1, 2**16)]
    group: Annotated[int, between(2, 4096)]
    cfg_scale: Annotated[float, between(0, 1000)] = 1.0
    temperature: Rate = 1.0
    batch_size: Count = 16

    def __post_init__(self) -> None:
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """As the sampler takes it."""
        return Sampling(cfg_scale=self.cfg_scale, temperature=self.temperature)


@configclass
class MicroBatchConfig:
    """Pictures of one forward pass of a rank while learning; how many a step has follows from rollouts and method."""

    micro_size: Count


@configclass
class HeldOutJudgeConfig:
    """Whether pictures get better by a judge that is no reward, on prompts that are not learned from.

    Args:
        prompts: a file as `prompts.file`; none of them may be learned from.
        judge: a scorer whose identity is no reward's.
        per_prompt: pictures of each, the same noise each time.
        sampling: how they are drawn; null: as rollouts are.
        stop_after_falls: training ends after so many evaluations in a row at which the reward had risen and the judge
            had fallen; null: never.
    """

    prompts: str
    judge: ScorerConfig
    per_prompt: Annotated[int, between(1, 4096)] = 4
    sampling: Sampling | None = None
    stop_after_falls: Count | None = 3


@configclass
class PostTrainingConfig:
    """One post-training of a generator."""

    output: str
    """The run's folder; see `common/training/run.py` for its layout."""
    seed: Seed
    init_from: str
    """The generator's folder (`RUN/model`) that learns, and the reference."""
    steps: Count
    """Each draws pictures once and learns from them `updates_per_rollout` times."""
    resume: bool = True
    model: GeneratorReference
    prompts: PromptsConfig
    rollouts: RolloutsConfig
    rewards: tuple[ScorerConfig, ...]
    """Parts of the reward, each with its weight."""
    method: Literal["grpo", "rejection", "dpo"]
    grpo: GRPOConfig | None = None
    rejection: RejectionConfig | None = None
    dpo: DPOConfig | None = None
    updates_per_rollout: Count = 1
    batch: MicroBatchConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig
    processes: ProcessConfig = ProcessConfig()
    guard: GuardConfig = GuardConfig()
    samples: SamplesConfig
    held_out: HeldOutJudgeConfig | None = None

    @property
    def scores(self) -> Scores:
        """Those of its evaluations that `checkpoint.best` may name -> whether higher is better."""
        return {"judge": True}

    @property
    def learned_per_group(self) -> int:
        """Pictures of a group that are learned from."""
        if self.rejection is not None:
            return self.rejection.keep
        return 2 if self.dpo is not None else self.rollouts.group

    @property
    def update_batch(self) -> BatchConfig:
        """Pictures of an update over all ranks, and of a forward pass on one."""
        pictures = self.rollouts.prompts * self.learned_per_group
        return BatchConfig(global_size=pictures, micro_size=self.batch.micro_size)

    def __post_init__(self) -> None:
        check_best(self.checkpoint, self.logging, self.held_out is not None, self.scores)
        check_scorers(self.rewards, "rewards")
        for name in ("grpo", "rejection", "dpo"):
            given: Any = getattr(self, name)
            if (given is not None) != (name == self.method):
                expected = "its settings" if name == self.method else f"null beside method {self.method}"
                raise ValueError(f"{name}: expected {expected}")
        if self.learned_per_group > self.rollouts.group:
            raise ValueError(
                f"rejection.keep: expected at most rollouts.group {self.rollouts.group}, found {self.learned_per_group}"
            )
        if self.dpo is not None and self.batch.micro_size % 2:
            raise ValueError(f"batch.micro_size: expected pairs, found {self.batch.micro_size}")
        if self.engine.zero_stage == 3:
            raise ValueError(
                "engine.zero_stage: post-training supports 0, 1 and 2 (the sampler reads whole weights)"
            )
        if self.optimizer.muon is not None and self.engine.offload != "none":
            raise ValueError(
                "engine.offload: expected none beside optimizer.muon: only AdamW's states can rest there"
            )
        for key, sampling in (("samples", self.samples.sampling), ("held_out", self.held_out_sampling)):
            try:
                sampling.check(self.model.tokenizer.codebook_size)
            except ValueError as error:
                raise ValueError(f"{key}.sampling.{error}") from error

    @property
    def held_out_sampling(self) -> Sampling:
        """How the judge's pictures are drawn."""
        own = self.held_out.sampling if self.held_out is not None else None
        return own or self.rollouts.sampling


_WITHOUT = ("data", "evaluation", "batch.global_size")
ON_RESUME: Final[Rules] = {
    **{key: kind for key, kind in SHARED.items() if not key.startswith(_WITHOUT)},
    "steps": "applied",
    "prompts": "refused",
    "rollouts.prompts": "refused",
    "rollouts.group": "refused",
    "rollouts.cfg_scale": "applied",
    "rollouts.temperature": "applied",
    "rollouts.batch_size": "free",
    "rewards": "refused",
    "method": "refused",
    "grpo": "switch",
    "grpo.clip": "applied",
    "grpo.clip_high": "applied",
    "grpo.kl": "applied",
    "grpo.entropy": "applied",
    "grpo.advantage": "applied",
    "grpo.similarity": "applied",
    "rejection": "switch",
    "rejection.keep": "refused",
    "rejection.threshold": "applied",
    "dpo": "switch",
    "dpo.beta": "applied",
    "dpo.margin": "applied",
    "updates_per_rollout": "applied",
    "optimizer.lr": "applied",
    "optimizer.schedule": "applied",
    "optimizer.warmup_steps": "applied",
    "optimizer.muon": "switch",
    "optimizer.muon.lr": "applied",
    "optimizer.muon.momentum": "applied",
    "samples": "free",
    "samples.sampling": "applied",  # the exported generator brings it along
    "held_out": "free",
}
"""What a resumed run may change, see `common/training/recipe_change.py`."""
