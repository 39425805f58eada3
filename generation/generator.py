"""Prompts to pictures.

    from vqrae import Generator
    generator = Generator.from_pretrained("runs/demo/generator/model")
    (pictures,) = generator.generate("a photo of a red circle", n=4)

A picture follows from (model, settings, seed, prompt, its number among the pictures of the prompt). What else stands in
a batch, and how large it is, changes none of its random numbers, only roundings: of about 1e-6 in float32, which rarely
tip a draw; of about 1e-2 in bfloat16, which often do. `deterministic` takes these away too (see `batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from common.data.images import to_pil, to_uint8
from common.errors import UserError, refusing
from common.models.weight_files import state_sha256
from common.text import checked
from generation.batches import Batch, Job, fixed, in_turn, jobs_for
from generation.drawing import check_seed
from generation.gumbel import picture_key
from generation.model_folder import GeneratorFolder, load_generator
from generation.prompt import prompt_ids
from generation.sampler import Sampler
from generation.sampling import Sampling

__all__ = ["Generator", "Job", "jobs_for"]

DECODED_AT_ONCE = 16  # pictures; the pixel decoder's memory, beside which the sampler's cache still stands


class Generator:
    """A trained generator with its VQRAE, ready to draw.

    `sampling` are the settings of its folder, which drawing starts from, and `origin` says where they are from;
    `weights_sha256` tells language models apart.
    """

    def __init__(self, parts: GeneratorFolder, device: torch.device | str = "cpu") -> None:
        self.vocabulary, self.text_tokenizer = parts.vocabulary, parts.text_tokenizer
        self.sampling, self.origin = parts.sampling, parts.origin
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
        deterministic: bool = False,
        batch_size: int = 16,
    ) -> list[list[Image.Image]]:
        """`n` pictures of each prompt.

        Args:
            sampling: None: `self.sampling`.
            tokens: codes of a picture; anything but what was trained is refused.
            truncate: cut prompts that are too long, else they are an error.
            deterministic: equal to the last bit whatever is drawn beside them; 16 at once then, whatever `batch_size`.
            batch_size: pictures drawn at once.

        Raises:
            UserError: a prompt is too long or no valid text, another grid was trained, or logits are not finite.
            ValueError: `top_k` over K; `n` or `batch_size` under 1; a seed that is none.
        """
        if n < 1 or batch_size < 1:
            raise ValueError(f"n, batch_size: expected 1 or more, found {n}, {batch_size}")
        check_seed(seed)
        self.check_tokens(tokens)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        jobs = jobs_for(prompts, n)
        drawn: dict[Job, Image.Image] = {}
        for batch in self.batches(jobs, batch_size, deterministic, truncate):
            drawn |= self.draw(batch, seed, sampling or self.sampling, truncate)
        return [[drawn[job] for job in jobs[first : first + n]] for first in range(0, len(jobs), n)]

    def batches(
        self, jobs: Sequence[Job], batch_size: int, deterministic: bool = False, truncate: bool = False
    ) -> list[Batch]:
        """What is drawn at once; UserError if a prompt cannot be drawn."""
        # Of all, before anything is drawn.
        lengths = {job.prompt: len(self.prompt_ids(job.prompt, truncate)) for job in jobs}
        if not deterministic:
            return in_turn(jobs, batch_size)
        return fixed(jobs, lengths.__getitem__, self.sampler.longest - self.vocabulary.image_tokens)

    def draw(
        self,
        batch: Batch,
        seed: int,
        sampling: Sampling,
        truncate: bool = False,
        on_step: Callable[[], object] | None = None,
    ) -> dict[Job, Image.Image]:
        """The pictures of one batch; errors as of `generate`. `on_step` is called after each code."""
        codes = self.codes(batch, seed, sampling, truncate, on_step)
        pictures = zip(batch.rows, self.decode(codes), strict=True)
        return {job: picture for job, picture in pictures if job is not None}

    def codes(
        self,
        batch: Batch,
        seed: int,
        sampling: Sampling,
        truncate: bool = False,
        on_step: Callable[[], object] | None = None,
    ) -> Tensor:
        """Codes (B, h, w) of one batch, a row for each of its rows."""
        filled = [job or batch.jobs[-1] for job in batch.rows]
        distinct = list(dict.fromkeys(job.prompt for job in filled))
        # Of fixed width, every row reads a prompt of its own, so that the shapes do not tell how many are alike.
        read = [job.prompt for job in filled] if batch.width else distinct
        owners = range(len(filled)) if batch.width else [distinct.index(job.prompt) for job in filled]
        ids = {prompt: self.prompt_ids(prompt, truncate) for prompt in distinct}
        codes = self.sampler.sample(
            [ids[prompt] for prompt in read],
            prompt_ids(self.text_tokenizer, None),
            owners=owners,
            keys=[picture_key(seed, job.prompt, job.sample_index) for job in filled],
            sampling=sampling,
            on_step=on_step,
            width=batch.width,
        )
        return codes.unflatten(1, self.vocabulary.grid)

    def decode(self, codes: Tensor) -> list[Image.Image]:
        """Codes (B, h, w) -> RGB pictures."""
        parts = (self.vqrae.decode(part) for part in codes.split(DECODED_AT_ONCE))
        return [to_pil(pixels) for part in parts for pixels in to_uint8(part)]

    def prompt_ids(self, prompt: str, truncate: bool = False) -> list[int]:
        """The ids of a prompt that leaves room for the picture; UserError if it does not, or is no valid text."""
        room = self.vocabulary.text_room
        return prompt_ids(self.text_tokenizer, checked(prompt), room=room, truncate=truncate)

    def check_tokens(self, tokens: int | None) -> None:
        """Raises `UserError` unless pictures of `tokens` codes were trained.

        Codes follow each other row by row, and the model was never shown where another grid's rows end.
        """
        height, width = self.vocabulary.grid
        if tokens is not None and tokens != height * width:
            raise UserError(
                f"tokens: this generator was trained on {height * width} codes ({height} x {width}) alone, found "
                f"{tokens}"
            )
