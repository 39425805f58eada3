"""The fingerprints of what InternVL is asked by VLMEvalKit: its own code, run on rows in its data sets' columns."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from evals.fingerprint import fingerprint
from evals.vlmeval.documents import write_rows
from evals.vlmeval.models import InternVLStyle


def asked(data: str, model: Any) -> None:
    """Take the made-up rows of a data set through a model of VLMEvalKit, from the row to the model's `chat`."""
    with tempfile.TemporaryDirectory() as folder:
        model.set_dump_image(lambda row: row["pictures"])
        for row in write_rows(data, Path(folder)):
            model.generate(model.build_prompt(row, dataset=data), dataset=data)


def set_fingerprint(data: str, source: str) -> str:
    """Of what the checkpoint at `source` would be asked; its weights are not read."""
    model = InternVLStyle(source, None)
    asked(data, model)
    return fingerprint(model.model.heard)
