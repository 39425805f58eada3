"""What lmms-eval finds by pyproject.toml's entry point: `lmms-eval --model vqrae --model_args pretrained=MODEL`."""

from __future__ import annotations

from typing import Any

MODEL_ID = "vqrae"


def manifests() -> list[Any]:
    """Our one model, with the chat interface only."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id=MODEL_ID, chat_class_path="evals.lmms.model.VqraeChat")]
