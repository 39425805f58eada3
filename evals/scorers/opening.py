"""From a scorer's config to a scorer: what it needs is looked for at once, before anything is loaded or drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from common.errors import UserError, refusing
from evals.detectors.opening import CLIP, detector_needs, open_detector
from evals.preflight import Need
from evals.preflight import model as model_need
from evals.scorers.asked import read_phrasing
from evals.scorers.config import ScorerConfig, check_scorers
from evals.scorers.prompts import ScoredPrompt

if TYPE_CHECKING:
    import torch

    from evals.detectors.detection import Detector
    from evals.scorers.scorer import Scorer
    from evals.scorers.weighted import WeightedScorer


def check_there(config: ScorerConfig, where: str) -> None:
    """Whether all that a scorer is made of is there, or to be had. Loads nothing.

    Args:
        where: the scorer's place, which an error begins with: `rewards.0`, or an option's name.

    Raises:
        UserError: something is not, and how to get it.
    """
    if config.kind == "rules":
        names = ("detector", "color_clip")
        _require(detector_needs(str(config.detector), config.color_clip, names), where)
    elif config.kind == "clip":
        _require([model_need(config.model or CLIP, "a CLIP", "model")], where)
    elif config.kind == "questions":
        _require([model_need(str(config.model), "a model that answers questions", "model")], where)
        with refusing(f"{where}: phrasing", UserError):
            read_phrasing(config.phrasing)


def open_scorer(
    config: ScorerConfig, prompts: Sequence[ScoredPrompt], where: str, device: torch.device | str
) -> Scorer:
    """A scorer that can look at pictures of `prompts`; `where` as of `check_there`.

    Raises:
        UserError: what it is made of is absent or damaged, or it cannot judge one of the prompts.
    """
    check_there(config, where)
    if config.kind == "rules":
        from evals.scorers.rules import RulesScorer

        detector = open_rules_detector(config, where, device)
        with refusing(where, UserError):
            return RulesScorer(detector, prompts, config.graded, config.strict)
    if config.kind == "legibility":
        return _legibility(config, prompts, where)
    from common.models.weight_files import resolve_folder
    from evals.scorers.questions import QuestionsScorer
    from evals.scorers.similarity import ClipScorer

    with refusing(f"{where}: model", UserError):
        if config.kind == "clip":
            return ClipScorer(resolve_folder(config.model or CLIP), device, prompts)
        phrasing = read_phrasing(config.phrasing)
        return QuestionsScorer(str(config.model), device, prompts, phrasing, config.answers)


def open_weighted(
    configs: Sequence[ScorerConfig], prompts: Sequence[ScoredPrompt], where: str, device: torch.device | str
) -> WeightedScorer:
    """Several scorers as one; `where` names their list.

    Raises:
        UserError: as of `open_scorer`; or two have the same name, or none has a weight above 0.
    """
    from evals.scorers.weighted import WeightedScorer

    with refusing(where, ValueError):
        check_scorers(configs, "scorers")
    for number, config in enumerate(configs):
        check_there(config, f"{where}.{number}")
    return WeightedScorer(
        {
            config.called: (config.weight, open_scorer(config, prompts, f"{where}.{number}", device))
            for number, config in enumerate(configs)
        }
    )


def _legibility(config: ScorerConfig, prompts: Sequence[ScoredPrompt], where: str) -> Scorer:
    from evals.reading import open_reader
    from evals.scorers.legibility import LegibilityScorer

    with refusing(f"{where}: reader", UserError):
        reader = open_reader(config.reader)
    with refusing(where, UserError):
        return LegibilityScorer(reader, prompts)


def open_rules_detector(config: ScorerConfig, where: str, device: torch.device | str) -> Detector:
    """The detector of a scorer of kind `rules`; errors as of `open_scorer`."""
    from evals.geneval.detections import check_opened

    check_there(config, where)
    with refusing(f"{where}: detector", UserError):
        detector = open_detector(str(config.detector), config.color_clip, device)
        check_opened(detector, config.detector)
    return detector


def _require(needs: Iterable[Need], where: str) -> None:
    missing = [need for need in needs if not need.found]
    if missing:
        told = "; ".join(f"{need.what}: {', '.join(need.how.splitlines())}" for need in missing)
        raise UserError(f"{where}: missing here: {told}")
