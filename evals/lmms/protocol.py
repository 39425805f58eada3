"""The paper's tasks as they are asked here, and the fingerprint of what that makes of documents in their schema."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

from datasets import Dataset, DatasetDict
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from lmms_eval.tasks import TaskManager

from evals.fingerprint import fingerprint
from evals.lmms.documents import documents
from evals.lmms.manifest import MODEL_ID
from evals.lmms.model import VqraeChat
from evals.lmms.tasks import SEED_BENCH


@cache
def known_tasks() -> TaskManager:
    """lmms-eval's index of its own tasks, which takes seconds to make."""
    return TaskManager("ERROR", model_name=MODEL_ID)


def task_config(task: str, videos: bool = False) -> dict[str, Any]:
    """A task in the words of its YAML file; of SEED-Bench without the questions about videos, unless `videos`."""
    config: dict[str, Any] = known_tasks()._get_config(task)
    if task == SEED_BENCH and not videos:
        config["process_docs"] = _about_images
    return config


def made_up_requests(
    task: str, kind: type[ConfigurableTask] = ConfigurableMessagesTask, model: str = MODEL_ID
) -> tuple[list[Instance], dict[str, Any]]:
    """Requests about `documents`, and what a model finds the documents in. It needs no network.

    Args:
        kind: with or without the chat interface. model: the name by which lmms-eval chooses its prompts.
    """
    config = task_config(task)
    split = config["test_split"]
    with tempfile.TemporaryDirectory() as folder:
        DatasetDict({split: Dataset.from_list(documents(task))}).save_to_disk(folder)
        held = {"dataset_path": folder, "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
        if task == "gqa":
            held["process_docs"] = None  # it would fetch the pictures, which are in the documents already
        built = kind(config={**config, **held}, model_name=model)
        built.build_all_requests()
        # Whoever reads the documents later finds them in memory.
        found = {split: list(built.dataset[split])}
    return built.instances, {task: found}


def task_fingerprint(task: str, model: VqraeChat) -> str:
    """Of the prompts, pictures and lengths that `model` makes of the task's made-up documents."""
    requests, found = made_up_requests(task)
    return fingerprint([model.rendered(request, found) for request in requests])


def _about_images(rows: Dataset) -> Dataset:
    return rows.filter(lambda kind: kind == "image", input_columns="data_type")
