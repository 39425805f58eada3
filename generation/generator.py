"""Prompts to pictures.

    from vqrae import Generator
    generator = Generator.from_pretrained("runs/demo/generator")
    (pictures,) = generator.generate("a photo of a red circle", n=4)

A picture follows from (model, prompt, seed, index of the prompt, index of the sample, settings). What stands beside it
in a batch changes none of its random numbers, only roundings of about 1e-6, which rarely tip a draw; evaluations keep
to one batch size and one composition, so that theirs are equal to the last bit (see `picture_folder`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from common.data.images import to_pil, to_uint8
from common.errors import UserError, refusing
from common.models.vision_encoder import Grid
from common.models.weight_files import state_sha256
from generation.gumbel import picture_key
from generation.model_folder import GeneratorFolder, load_generator
from generation.prompt import prompt_ids
from generation.sampler import Sampler
from generation.sampling import Sampling
from generation.vocabulary import MARKS

DECODED_AT_ONCE = 16  # pictures; the pixel decoder's memory, beside which the sampler's cache still stands


@dataclass(frozen=True)
class Job:
    """One picture to draw: a prompt, and the two indices that its random numbers follow from."""

    prompt: str
    prompt_index: int
    sample_index: int


def jobs_for(prompts: Sequence[str], n: int, numbers: Sequence[int] | None = None) -> list[Job]:
    """`n` pictures of each prompt, prompt after prompt; `numbers` are the prompts' own, None: their places."""
    places = range(len(prompts)) if numbers is None else numbers
    pairs = zip(places, prompts, strict=True)
    return [Job(prompt, index, sample) for index, prompt in pairs for sample in range(n)]


class Generator:
    """A trained generator with its VQRAE, ready to draw; `weights_sha256` tells language models apart."""

    def __init__(self, parts: GeneratorFolder, device: torch.device | str = "cpu") -> None:
        self.vocabulary, self.text_tokenizer = parts.vocabulary, parts.text_tokenizer
        self.weights_sha256 = state_sha256(parts.model.state_dict())
        self.vqrae = parts.vqrae.eval().requires_grad_(False).to(device)
        self.sampler = Sampler(parts.model.eval().to(device), parts.vocabulary)
        self.dtype: torch.dtype = parts.model.dtype
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(
        cls, source: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Generator:
        """The generator at `source`, a folder or a hub id.

        Args:
            device: None: a GPU if there is one.
            dtype: of the language model; None: float32 on a CPU, as saved on a GPU.

        Raises:
            UserError: see `load_generator`; or a model that the sampler does not know.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        parts = load_generator(source, dtype or (torch.float32 if place.type == "cpu" else "auto"))
        with refusing(f"{source}: config.json", ValueError):
            return cls(parts, place)

    def generate(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        tokens: int | None = None,
        truncate: bool = False,
        batch_size: int = 16,
    ) -> list[list[Image.Image]]:
        """`n` pictures of each prompt.

        Args:
            tokens: codes of a picture, a square number; None: as in training.
            truncate: cut prompts that are too long, else they are an error.
            batch_size: pictures drawn at once.

        Raises:
            UserError: a prompt is too long, or `tokens` is no grid.
            ValueError: `top_k` over K; `n` or `batch_size` under 1.
        """
        if n < 1 or batch_size < 1:
            raise ValueError(f"n, batch_size: expected 1 or more, found {n}, {batch_size}")
        prompts = [prompts] if isinstance(prompts, str) else prompts
        jobs = jobs_for(prompts, n)
        drawn: list[Image.Image] = []
        for first in range(0, len(jobs), batch_size):
            part = jobs[first : first + batch_size]
            drawn += self.decode(self.draw(part, seed, sampling or Sampling(), tokens, truncate))
        return [drawn[first : first + n] for first in range(0, len(drawn), n)]

    def draw(
        self,
        jobs: Sequence[Job],
        seed: int,
        sampling: Sampling,
        tokens: int | None = None,
        truncate: bool = False,
        on_step: Callable[[], object] | None = None,
    ) -> Tensor:
        """Codes (B, h, w) of one batch; arguments and errors as of `generate`. `on_step` is called after each code."""
        grid = self.grid(tokens)
        distinct = list(dict.fromkeys(job.prompt for job in jobs))
        codes = self.sampler.sample(
            [self.prompt_ids(prompt, tokens, truncate) for prompt in distinct],
            prompt_ids(self.text_tokenizer, None),
            owners=[distinct.index(job.prompt) for job in jobs],
            keys=[picture_key(seed, job.prompt_index, job.sample_index) for job in jobs],
            sampling=sampling,
            steps=grid[0] * grid[1],
            on_step=on_step,
        )
        return codes.unflatten(1, grid)

    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, h, w) -> RGB pictures."""
        parts = (self.vqrae.decode(part) for part in codes.split(DECODED_AT_ONCE))
        return [to_pil(pixels) for part in parts for pixels in to_uint8(part)]

    def prompt_ids(self, prompt: str, tokens: int | None = None, truncate: bool = False) -> list[int]:
        """The ids of a prompt that leaves room for the picture; UserError if it does not."""
        height, width = self.grid(tokens)
        room = self.vocabulary.max_length - height * width - MARKS
        return prompt_ids(self.text_tokenizer, prompt, room=room, truncate=truncate)

    def grid(self, tokens: int | None) -> Grid:
        """(h, w) of a picture of `tokens` codes.

        Raises:
            UserError: no square number, or more than fit into the training length.
        """
        if tokens is None:
            return self.vocabulary.grid
        side, most = math.isqrt(max(tokens, 0)), self.vocabulary.max_length - MARKS - 1
        if tokens < 1 or side * side != tokens:
            raise UserError(
                f"tokens: expected a square number, since a picture is a grid of codes, found {tokens}"
            )
        if tokens > most:
            raise UserError(
                f"tokens: expected at most {most}, what the training length leaves, found {tokens}"
            )
        return side, side
