"""The paper's eight tasks as lmms-eval 0.7.3 knows them: what to read of their results, and where their data are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PaperTask:
    """A task of Table 3. Its score, times `scale`, is in the table's units; `dataset` is its repository on the hub."""

    score: str
    metric: str
    scale: float
    dataset: str


SEED_BENCH = "seedbench"
SEED_BENCH_VIDEOS = 3757
"""Its questions about videos, eight pictures each; the paper's score is of the 14,233 others."""

PAPER_TASKS = {
    # LLaVA-1.5, and so its successors, report F1 over the three sets of questions together.
    "pope": PaperTask(score="pope", metric="pope_f1_score", scale=100, dataset="lmms-lab-encoder/POPE"),
    "gqa": PaperTask(score="gqa", metric="exact_match", scale=100, dataset="lmms-lab-encoder/GQA"),
    "textvqa_val": PaperTask(
        score="textvqa", metric="exact_match", scale=100, dataset="lmms-lab-encoder/textvqa"
    ),
    # The variant that reads the answer's letter itself; `mmbench_en_dev` would ask a judge behind an API.
    "mmbench_en_dev_static": PaperTask(
        score="mmbench", metric="gpt_eval_score", scale=1, dataset="lmms-lab-encoder/MMBench"
    ),
    "mme": PaperTask(
        score="mme_perception", metric="mme_perception_score", scale=1, dataset="lmms-lab-encoder/MME"
    ),
    SEED_BENCH: PaperTask(
        score="seedbench", metric="seed_image", scale=100, dataset="lmms-lab-encoder/SEED-Bench"
    ),
    "mmmu_val": PaperTask(score="mmmu", metric="mmmu_acc", scale=100, dataset="lmms-lab-encoder/MMMU"),
    "ai2d": PaperTask(score="ai2d", metric="exact_match", scale=100, dataset="lmms-lab-encoder/ai2d"),
}


def read_scores(task: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """A task's scores, in the units and by the names of `targets.yaml`; of any other task, all its numbers.

    Args:
        found: the framework's results, by task or subtask: `metric,filter` and its value.

    Returns:
        No score that is not a finite number; empty where the framework reports none.
    """
    paper = PAPER_TASKS.get(task)
    scores = {}
    for name, values in found.items():
        for key, value in values.items():
            metric = key.split(",")[0]
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            if paper is not None and metric == paper.metric:
                scores[paper.score] = float(value) * paper.scale
            elif paper is None and "_stderr" not in metric and "," in key:
                scores[name if metric == WHOLE else f"{name}/{metric}"] = float(value)
    return dict(sorted(scores.items()))


def count_samples(
    task: str, scores: Mapping[str, float], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, int]:
    """How many questions each score comes from: of a paper's task those that its metric counts, else all.

    Args:
        samples: the framework's, by task or subtask.
    """
    metric = PAPER_TASKS[task].metric if task in PAPER_TASKS else None
    counted = {
        sample["doc_id"] for some in samples.values() for sample in some if metric is None or metric in sample
    }
    return dict.fromkeys(scores, len(counted))


WHOLE = "accuracy"
"""The metric that stands for the task itself, and bears its name."""
