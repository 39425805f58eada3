"""Scores of settings, drawn once and kept, so that a search that was stopped goes on where it was.

DIR/identity.json      what the scores follow from but the settings
DIR/scores/HASH.json   those of one trial's prompts in one round
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError, refusing
from common.files import write_json
from evals.answers import essential
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import Scorer
from generation.generator import Generator
from generation.sampling import Sampling
from generation.sampling_file import as_json


class KeptScores:
    """Draws and scores.

    Args:
        n: pictures of each prompt.
        on_pictures: called with the number of pictures that were drawn, or whose scores were there.

    Raises:
        UserError: DIR holds the scores of another model, scorer, or set of pictures.
    """

    def __init__(
        self,
        folder: Path,
        generator: Generator,
        scorer: Scorer,
        prompts: Sequence[ScoredPrompt],
        n: int,
        seed: int,
        batch_size: int,
        on_pictures: Callable[[int], object],
    ) -> None:
        self.folder, self.generator, self.scorer, self.prompts = folder, generator, scorer, prompts
        self.n, self.seed, self.batch_size, self.on_pictures = n, seed, batch_size, on_pictures
        stated = json.dumps([prompt.metadata for prompt in prompts])
        self.identity = {
            "weights_sha256": generator.weights_sha256,
            "dtype": str(generator.dtype).removeprefix("torch."),
            "scorer": essential(scorer.identity),
            "prompts": len(prompts),
            "prompts_sha256": hashlib.sha256(stated.encode()).hexdigest(),
            "pictures_per_prompt": n,
            "seed": seed,
        }
        self._claim(folder / "identity.json")

    def _claim(self, path: Path) -> None:
        identity = json.loads(json.dumps(self.identity))
        if not path.is_file():
            write_json(path, identity)
        with refusing(f"{path}: no record of a search", OSError, ValueError, TypeError):
            stated = dict(json.loads(path.read_text(encoding="utf-8")))
        for key, value in identity.items():
            if stated.get(key) != value:
                raise UserError(
                    f"{self.folder}: holds the scores of another search ({key}); choose another folder"
                )

    def measure(self, sampling: Sampling, numbers: Sequence[int]) -> list[float]:
        """A score for each prompt, the mean over its pictures; read where it is there."""
        settings = as_json(sampling)
        key = hashlib.blake2b(json.dumps([settings, list(numbers)]).encode(), digest_size=8).hexdigest()
        path = self.folder / "scores" / f"{key}.json"
        if path.is_file():
            with refusing(f"{path}: no scores of a trial", OSError, ValueError, KeyError, TypeError):
                scores = [float(one) for one in json.loads(path.read_text(encoding="utf-8"))["scores"]]
            self.on_pictures(len(numbers) * self.n)
            return scores
        scores = []
        at_once = max(1, self.batch_size // self.n)
        for first in range(0, len(numbers), at_once):
            scores += self._draw(
                [self.prompts[number] for number in numbers[first : first + at_once]], sampling
            )
        write_json(path, {"sampling": settings, "prompts": list(numbers), "scores": scores})
        return scores

    def _draw(self, prompts: Sequence[ScoredPrompt], sampling: Sampling) -> list[float]:
        texts = [prompt.text for prompt in prompts]
        drawn = self.generator.generate(
            texts, self.n, seed=self.seed, sampling=sampling, batch_size=self.batch_size
        )
        found = [self.scorer.score(prompt, row) for prompt, row in zip(prompts, drawn, strict=True)]
        self.on_pictures(len(prompts) * self.n)
        return [sum(scores) / len(scores) for scores in found]
