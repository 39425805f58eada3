"""Pictures of the policy as it is now: drawn, decoded, scored and compared.

What is notable here: a group stays whole on one rank, and groups are dealt to ranks in blocks, so a batch of the
sampler holds the same pictures on any number of ranks wherever a rank's share is a multiple of it. The random numbers
of a picture follow from (seed, batch, prompt, number).

Legend: P prompts of this rank, G pictures of each, B = P G, N codes, K codes to choose from, E code width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.data.images import to_pil, to_uint8
from common.data.order import derive_key
from common.models.vqrae import VQRAE
from common.training.engine import Precision, autocast
from common.training.modes import evaluating
from evals.scorers.prompts import ScoredPrompt
from generation.gumbel import picture_key
from generation.model_folder import GeneratorFolder
from generation.prompt import prompt_ids
from generation.sampler import Sampler
from generation.sampling import Sampling
from post_training.prompts import Group

DECODED_AT_ONCE = 16  # pictures; while the sampler's cache still stands


@dataclass(frozen=True)
class Drawn:
    """Pictures of several groups, group after group.

    Args:
        codes: (B, N) int64.
        log_probs: (B, N) float32, the sampler's own, in nats.
        pictures: B of them, RGB.
        features: (B, D) float32: the VQRAE's own features of each picture, mean over its tokens.
    """

    groups: Sequence[Group]
    codes: Tensor
    log_probs: Tensor
    pictures: list[Image.Image]
    features: Tensor


class Roller:
    """Draws groups of pictures.

    Args:
        generator: on its device; its model is the one that learns.
        batch_size: pictures drawn at once.
        precision: of the VQRAE's encoder.
    """

    def __init__(self, generator: GeneratorFolder, batch_size: int, precision: Precision) -> None:
        self.generator, self.batch_size, self.precision = generator, batch_size, precision
        self.sampler = Sampler(generator.model, generator.vocabulary, scored=True)
        self.unconditional = prompt_ids(generator.text_tokenizer, None)

    def refresh(self) -> None:
        """The weights have changed."""
        self.sampler.refresh(self.generator.model)

    def ids(self, text: str) -> list[int]:
        """A prompt's ids; UserError if it leaves no room for the picture."""
        return prompt_ids(self.generator.text_tokenizer, text, room=self.generator.vocabulary.text_room)

    def check(self, prompts: Iterable[ScoredPrompt]) -> None:
        """Raises `UserError` for a prompt that leaves no room for the picture, before anything is drawn."""
        for prompt in prompts:
            self.ids(prompt.text)

    @torch.no_grad()
    def draw(self, groups: Sequence[Group], size: int, sampling: Sampling, seed: int) -> Drawn:
        """`size` pictures of each group.

        Args:
            seed: of the noise, together with prompt and number.
        """
        owners = [place for place in range(len(groups)) for _ in range(size)]
        texts = [group.prompt.text for group in groups]
        keys = [
            picture_key(seed, group.prompt.text, group.turn * size + number)
            for group in groups
            for number in range(size)
        ]
        ids = [self.ids(text) for text in texts]
        codes, log_probs = [], []
        with evaluating(self.generator.model):
            for part in parts(len(groups), size, self.batch_size):
                codes.append(self.sampler.sample(ids, self.unconditional, owners[part], keys[part], sampling))
                assert self.sampler.log_probs is not None
                log_probs.append(self.sampler.log_probs)
        found = torch.cat(codes)
        pictures, features = self._looked_at(found)
        return Drawn(groups, found, torch.cat(log_probs), pictures, features)

    def _looked_at(self, codes: Tensor) -> tuple[list[Image.Image], Tensor]:
        pictures: list[Image.Image] = []
        features = []
        for part in codes.unflatten(1, self.generator.vocabulary.grid).split(DECODED_AT_ONCE):
            pixels = self.generator.vqrae.decode(part)
            pictures += [to_pil(one) for one in to_uint8(pixels)]
            features.append(pooled(self.generator.vqrae, pixels, self.precision))
        return pictures, torch.cat(features)


def parts(groups: int, size: int, most: int) -> list[slice]:
    """Which of `groups` x `size` pictures are drawn at once, at most `most`: whole groups, or parts of one."""
    if size >= most:
        return [
            slice(first + start, min(first + start + most, first + size))
            for first in range(0, groups * size, size)
            for start in range(0, size, most)
        ]
    step = most // size * size
    return [slice(first, min(first + step, groups * size)) for first in range(0, groups * size, step)]


def pooled(vqrae: VQRAE, pixels: Tensor, precision: Precision) -> Tensor:
    """RGB in [0, 1] (B, 3, H, W) -> the mean of its features (B, D), float32."""
    with autocast(precision, pixels.device):
        features = vqrae.encode_features(pixels.clamp(0, 1))
    return features.float().mean(1)


def diversity(features: Tensor, size: int) -> Tensor:
    """How far apart the pictures of a group are: features (P G, D) -> (P,), the mean over pairs of 1 - cosine."""
    unit = torch.nn.functional.normalize(features.unflatten(0, (-1, size)), dim=-1)
    alike = unit @ unit.transpose(1, 2)
    pairs = size * (size - 1)
    return 1 - (alike.sum((1, 2)) - alike.diagonal(dim1=1, dim2=2).sum(1)) / pairs


def noise_seed(seed: int, batch: int) -> int:
    """Of the rollouts of batch number `batch`."""
    return derive_key(seed, "rollouts", batch)


def of_rank(groups: Sequence[Group], rank: int, world: int) -> Sequence[Group]:
    """This rank's block."""
    share = len(groups) // world
    return groups[rank * share : (rank + 1) * share]


def code_vectors(vqrae: Any, codes: Tensor) -> Tensor:
    """Codes (B, N) -> their vectors of unit length (B, N, E), float32."""
    return torch.nn.functional.normalize(vqrae.quantizer.lookup(codes).float(), dim=-1)
