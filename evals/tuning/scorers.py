"""How well a picture shows its prompt, in [0, 1]: by GenEval's rules over a detector, or by CLIP's similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch.nn.functional import normalize

from common.errors import UserError, refusing
from evals.detectors.detection import Detector
from evals.geneval.detections import check_vocabulary
from evals.geneval.prompts import Prompt
from evals.geneval.rules import judge
from evals.tuning.prompts import TuningPrompt


class Scorer(Protocol):
    """`identity`: whatever its scores follow from, as JSON."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def score(self, prompt: TuningPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        """A score for each picture of a prompt."""
        ...


class DetectorScorer:
    """1 where GenEval's rules accept what a detector finds, else 0.

    Raises:
        UserError: a prompt has no GenEval metadata, or asks for what the detector does not know.
    """

    def __init__(self, detector: Detector, prompts: Sequence[TuningPrompt], where: Path) -> None:
        self.detector = detector
        self.identity = {"name": "geneval rules", "detector": dict(detector.identity)}
        for prompt in prompts:
            with refusing(f"{where}: {prompt.text!r}: no GenEval metadata", ValueError, KeyError, TypeError):
                judge(prompt.metadata, [])
        numbered = [Prompt(number, prompt.metadata) for number, prompt in enumerate(prompts)]
        check_vocabulary(detector, numbered)

    def score(self, prompt: TuningPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        return [float(judge(prompt.metadata, self.detector.detect(one)).correct) for one in pictures]


class ClipScorer:
    """Cosine of a picture's and its prompt's CLIP embeddings, 0 where they point apart."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel, AutoProcessor

        from common.models.weight_files import read_config_json

        kind = read_config_json(folder).get("model_type")
        if kind != "clip":
            raise UserError(f"{folder}: config.json: model_type: expected 'clip', found {kind!r}")
        with refusing(f"{folder}: no CLIP can be loaded"):
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval().to(device)
            self.processor = AutoProcessor.from_pretrained(folder)
        self.identity = {"name": "clip similarity", "model": str(folder)}

    @torch.inference_mode()
    def score(self, prompt: TuningPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        inputs = self.processor(
            text=[prompt.text], images=list(pictures), return_tensors="pt", padding=True, truncation=True
        ).to(self.model.device)
        output = self.model(**inputs)
        text, seen = normalize(output.text_embeds, dim=-1), normalize(output.image_embeds, dim=-1)
        return [float(one) for one in (seen @ text.T)[:, 0].clamp_min(0)]
