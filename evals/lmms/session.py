"""One model's way through the tasks of lmms-eval, in this process and its siblings.

What is notable here: lmms-eval's own command exits with 0 whatever happens, so its evaluator is called directly. An
error ends the run; a task without scores, or with fewer answers than questions, is an error. The model is loaded once
for all tasks, each of which is kept as soon as it is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import traceback
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_eval import evaluator
from lmms_eval.api.task import ConfigurableMessagesTask, Task
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from loguru import logger

from common import dist
from common.errors import UserError, one_line
from common.files import write_json, write_text
from common.models.weight_files import resolve_folder, weights_sha256
from evals.answers import model_digest
from evals.fingerprint import fingerprint
from evals.lmms.manifest import MODEL_ID
from evals.lmms.model import Told, join_processes
from evals.lmms.protocol import known_tasks, task_config, task_fingerprint
from evals.lmms.questions import questions_config, write_task
from evals.lmms.tasks import PAPER_TASKS, SEED_BENCH, count_samples, read_scores

NO_TASKS = TaskManager("ERROR", include_defaults=False, model_name=MODEL_ID)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What came out of one task."""

    name: str
    scores: dict[str, float] = field(default_factory=dict)
    expected: int = 0
    """Questions that were to be asked."""
    scored: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """Questions behind each score."""
    partial: bool = False
    """Whether the task has more questions than were to be asked."""
    version: str = ""
    """lmms-eval's, of the task."""
    asked_sha256: str = ""
    """Of the questions with their right answers, in order."""
    fingerprint: str = ""
    """Of the prompts (see `evals/fingerprint.py`): for the paper's tasks of documents in the data set's schema, for
    others of the first questions."""
    kept: int = 0
    """Questions that former runs have answered."""
    too_long: int = 0
    """Questions that the model's context has no room for; their answers are empty."""
    seconds: float = 0.0


class Session:
    """A model, and a folder for what is found out about it.

    Args:
        source: a LLaVA folder or hub id. limit: questions of a task; None for all.

    Raises:
        UserError: no such model, or it cannot be loaded.
    """

    def __init__(
        self,
        source: str,
        output: Path,
        *,
        limit: int | None,
        batch_size: int,
        device: str,
        attn_implementation: str,
    ) -> None:
        logger.remove()
        logger.add(sys.stderr, level="ERROR")
        join_processes()
        self.output, self.limit = output, limit
        folder = resolve_folder(source)
        self.weights: str = dist.gather_objects(weights_sha256(folder) if dist.is_main() else "")[0]
        self.model = get_model(MODEL_ID)(
            pretrained=str(folder),
            device=device,
            batch_size=batch_size,
            attn_implementation=attn_implementation,
            answers=output / "answers",
            weights=self.weights,
        )
        digest = model_digest(folder, self.weights)
        self._key = {"model": f"{digest} {self.model.chat.model.dtype}", "lmms_eval": version("lmms_eval")}

    def run(self, task: str, videos: bool = False) -> TaskResult:
        """A task of lmms-eval by its name; a finished one is read from its file.

        Args:
            videos: whether SEED-Bench's questions about videos are asked, too.

        Raises:
            UserError: the framework knows no such task, or failed at it.
        """
        if not known_tasks().match_tasks([task]):
            raise UserError(f"--tasks: {task}: lmms-eval has no task of that name")

        def build() -> str | Task:
            if task != SEED_BENCH or videos:
                return task
            return ConfigurableMessagesTask(config=task_config(task), model_name=MODEL_ID)

        return self._kept_or_evaluated(task, build, {"task": task, "videos": str(videos)})

    def ask(self, questions: Path, images: Path) -> TaskResult:
        """A file of LLaVA conversations as a task that bears the file's name.

        Raises:
            UserError: the file is damaged, or the framework failed.
        """
        name, folder = questions.stem, self.output / "questions"
        if dist.is_main():
            write_task(name, questions, images, folder)
        dist.barrier()
        asked = (folder / f"{name}.jsonl").read_text(encoding="utf-8")

        def build() -> Task:
            # By its config alone, the framework would build a task for models without a chat interface.
            return ConfigurableMessagesTask(config=questions_config(name, folder), model_name=MODEL_ID)

        return self._kept_or_evaluated(name, build, {"questions": asked})

    def _kept_or_evaluated(
        self, name: str, build: Callable[[], str | Task], asked: Mapping[str, str]
    ) -> TaskResult:
        path = self.output / "tasks" / f"{name}.json"
        key = {**self._key, "limit": self.limit, **asked}
        kept = _read(path, key)
        # One process may see the file that another one has just written.
        if all(dist.gather_objects(kept is not None)) and kept is not None:
            return kept
        started = time.time()
        self.model.told = Told()
        try:
            # The first process fetches what is not there yet.
            task = build() if dist.is_main() else None
            dist.barrier()
            found = self._evaluate(task or build())
        except UserError:
            raise
        except Exception as error:  # whatever a task's own code raises
            traceback.print_exc()
            raise UserError(f"lmms-eval: {name}: {one_line(error)[:300]}") from error
        shares = dist.gather_objects(self.model.told)
        if found is None:  # only the first process gets it
            return TaskResult(name=name)
        result = _summarize(name, found, shares, time.time() - started)
        if name in PAPER_TASKS:
            result = replace(result, fingerprint=task_fingerprint(name, self.model))
        samples = found.pop("samples")
        lines = (json.dumps(sample, default=str) + "\n" for some in samples.values() for sample in some)
        write_text(self.output / "samples" / f"{name}.jsonl", "".join(lines))
        record = {"key": key, "result": asdict(result), "lmms_eval": found}
        write_json(path, record, default=str)
        return result

    def _evaluate(self, task: str | Task) -> dict[str, Any] | None:
        return evaluator.simple_evaluate(
            model=self.model,
            tasks=[task],
            task_manager=known_tasks() if isinstance(task, str) else NO_TASKS,
            limit=self.limit,
            log_samples=True,
            bootstrap_iters=0,
            # The name of the framework's way without accelerate; in a world of one it needs no launcher.
            distributed_executor_backend="torchrun",
            # Some tasks write files of their own there.
            cli_args=argparse.Namespace(
                output_path=str(self.output), process_with_media=False, reasoning_tags=None
            ),
        )


def _summarize(name: str, found: Mapping[str, Any], shares: Sequence[Told], seconds: float) -> TaskResult:
    """Of a task that has ended. Counts are of what was answered, not of what the framework says it set out to do.

    Args:
        shares: what the model has to tell in each process.

    Raises:
        UserError: the framework ended without a score, or left questions out.
    """
    scores = read_scores(name, found["results"])
    if not scores:
        raise UserError(f"lmms-eval: {name}: ended without a score")
    expected = sum(int(count["effective"]) for count in found["n-samples"].values())
    scored = sum(len({sample["doc_id"] for sample in some}) for some in found["samples"].values())
    if scored != expected:
        raise UserError(f"lmms-eval: {name}: {scored} of {expected} questions were answered")
    return TaskResult(
        name=name,
        scores=scores,
        expected=expected,
        scored=scored,
        counted=count_samples(name, scores, found["samples"]),
        partial=expected < sum(int(count["original"]) for count in found["n-samples"].values()),
        version=", ".join(str(version) for version in found["versions"].values()),
        asked_sha256=_asked(found["samples"]),
        fingerprint=fingerprint(
            [prompt for _, prompt in sorted(ChainMap(*(one.first for one in shares)).items())]
        ),
        kept=sum(one.kept for one in shares),
        too_long=sum(one.too_long for one in shares),
        seconds=seconds,
    )


def _asked(samples: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """A digest of each sample's text, record (as the framework hashes it, without pictures) and right answer."""
    digest = hashlib.sha256()
    for name in sorted(samples):
        for sample in sorted(samples[name], key=lambda sample: int(sample["doc_id"])):
            asked = [name, sample["arguments"][0], sample["doc_hash"], sample["target"]]
            digest.update(json.dumps(asked, default=str).encode())
    return digest.hexdigest()


def _read(path: Path, key: Mapping[str, Any]) -> TaskResult | None:
    """The result that `path` holds for this key, if it does."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return TaskResult(**record["result"]) if record["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
