"""A judge that is no reward, on prompts that are not learned from; and when it ends a run.

What is rewarded gets better, whether or not pictures do. So another scorer looks at the same noise of other prompts at
each evaluation, and where the reward rises while this one falls, several times in a row, training only pleases its
reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common import dist
from common.training.stop import until_stopped
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer
from post_training.config import PostTrainingConfig
from post_training.prompts import UNTAGGED, Group, tag_of
from post_training.rollouts import Roller, diversity


class HeldOutJudge:
    """Draws and judges this rank's share of the held-out prompts.

    Args:
        config: with `held_out`. prompts: all of them.
    """

    def __init__(
        self, config: PostTrainingConfig, roller: Roller, scorer: Scorer, prompts: Sequence[ScoredPrompt]
    ) -> None:
        assert config.held_out is not None
        self.roller, self.scorer, self.size = roller, scorer, config.held_out.per_prompt
        self.sampling, self.seed = config.held_out_sampling, config.seed
        self.tags = sorted({tag_of(prompt) for prompt in prompts})
        self.mine = [Group(prompt, 0) for prompt in prompts[dist.rank() :: dist.world()]]

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """The judge's mean score, that of each tag, the diversity (as in a line), and how many pictures; the same on
        all ranks.

        Raises:
            StoppedEarly: on all ranks, if one of them was asked to stop the run.
        """
        self.roller.refresh()
        step = max(1, self.roller.batch_size // self.size)
        chunks = [self.mine[first : first + step] for first in range(0, len(self.mine), step)]
        totals = torch.zeros(
            len(self.tags) + 1, 2, dtype=torch.float64
        )  # sum and count of each tag; of diversity
        for groups in until_stopped(chunks):
            drawn = self.roller.draw(groups, self.size, self.sampling, self.seed)
            for place, group in enumerate(groups):
                pictures = drawn.pictures[place * self.size : (place + 1) * self.size]
                scores = self.scorer.score(group.prompt, pictures)
                totals[self.tags.index(tag_of(group.prompt))] += torch.tensor([sum(scores), len(scores)])
            if self.size > 1:
                apart = diversity(drawn.features, self.size)
                totals[-1] += torch.tensor([float(apart.sum()), len(apart)])
        sums, counts = dist.sum_(totals.to(device)).cpu().unbind(1)
        values = {"judge": float(sums[:-1].sum() / counts[:-1].sum())}
        if self.tags != [UNTAGGED]:
            values |= {
                f"judge_{tag or 'untagged'}": float(total / count)
                for tag, total, count in zip(self.tags, sums, counts, strict=False)
            }
        if counts[-1]:
            values["diversity"] = float(sums[-1] / counts[-1])
        return {**values, "pictures": float(counts[:-1].sum())}


class Trend:
    """Whether the reward has risen while the judge fell, evaluation after evaluation. The same on all ranks.

    Args:
        falls: so many in a row end the run; None: none do.
    """

    def __init__(self, falls: int | None) -> None:
        self.allowed = falls
        self.fallen = 0
        self.reward: float | None = None  # the mean of the steps before the last evaluation
        self.judged: float | None = None  # what the last evaluation gave
        self._sum, self._count = 0.0, 0

    def learn(self, reward: float) -> None:
        """The mean reward of a step."""
        self._sum += reward
        self._count += 1

    def judge(self, scores: Mapping[str, float]) -> None:
        """An evaluation of the judge, `scores["judge"]`; the reward is the mean over the steps since the last one."""
        reward, judged = self._sum / self._count if self._count else None, scores["judge"]
        fell = self.judged is not None and judged < self.judged
        rose = self.reward is not None and reward is not None and reward > self.reward
        self.fallen = self.fallen + 1 if rose and fell else 0
        self.reward, self.judged, self._sum, self._count = reward, judged, 0.0, 0

    @property
    def stopped(self) -> bool:
        return self.allowed is not None and self.fallen >= self.allowed

    def told(self) -> str:
        """Why the run ends."""
        return (
            f"held_out.stop_after_falls: the reward rose and the held-out judge fell at {self.fallen} evaluations in a "
            "row: training ends here; checkpoint.best keeps the step that the judge liked most (`vqrae export RUN "
            "--best`)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        last = {"reward": self.reward, "judged": self.judged}
        return {"fallen": self.fallen, **last, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fallen, self.reward, self.judged = state["fallen"], state["reward"], state["judged"]
        self._sum, self._count = state["sum"], state["count"]
