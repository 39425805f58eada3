"""GenEval's rules as a scorer, over any detector: 1 or 0, or the share of a prompt's wishes that hold."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from common.errors import refusing
from evals.detectors.detection import Detection, Detector
from evals.geneval.detections import check_known
from evals.geneval.grading import grade
from evals.geneval.nothing_else import nothing_else
from evals.geneval.rules import judge
from evals.scorers.config import Strict
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import as_rgb


class RulesScorer:
    """See `scorer.Scorer`.

    Args:
        graded: `grading.grade` instead of `rules.judge`.
        strict: see `ScorerConfig`.
        prompts: all that will be scored.

    Raises:
        UserError: a prompt has no GenEval metadata, or asks for what the detector does not know.
    """

    def __init__(
        self,
        detector: Detector,
        prompts: Sequence[ScoredPrompt],
        graded: bool = False,
        strict: Strict = "off",
    ) -> None:
        self.detector, self.graded, self.strict = detector, graded, strict
        self.identity = {"name": "geneval rules", "graded": graded, "by": dict(detector.identity)}
        if strict != "off":
            self.identity["strict"] = strict
        for prompt in prompts:
            with refusing(
                f"{prompt.place}: no GenEval metadata that rules could go by",
                ValueError, KeyError, TypeError, AttributeError,
            ):  # fmt: skip
                judge(prompt.metadata, [])
            check_known(detector, prompt.metadata, prompt.place)

    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        # A form of picture that the detector does not take.
        with refusing(f"the detector {self.detector.identity['name']} cannot look at a picture", ValueError):
            return [self._of(prompt, self.detector.detect(picture)) for picture in as_rgb(pictures)]

    def _of(self, prompt: ScoredPrompt, found: Sequence[Detection]) -> float:
        metadata = prompt.metadata
        if self.strict != "off":
            metadata = nothing_else(metadata, self.detector.classes if self.strict == "all" else None)
        return grade(metadata, found) if self.graded else float(judge(metadata, found).correct)
