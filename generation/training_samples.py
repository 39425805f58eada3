"""Pictures for fixed prompts while training: what people look at."""

from __future__ import annotations

import torch
from PIL import Image

from common import dist
from common.data.images import to_pil, to_uint8
from common.errors import UserError
from common.sheets import contact_sheet
from common.training.modes import evaluating
from generation.config import SamplesConfig
from generation.gumbel import picture_key
from generation.model_folder import GeneratorFolder
from generation.prompt import prompt_ids
from generation.sampler import Sampler


class SamplePictures:
    """Draws the recipe's prompts, shared out over ranks; a picture's noise is the same at every step and on any number
    of ranks.

    Raises:
        UserError: a prompt is too long, or the sampling settings do not fit the vocabulary.
    """

    def __init__(self, seed: int, samples: SamplesConfig, generator: GeneratorFolder) -> None:
        self.seed, self.samples, self.generator = seed, samples, generator
        vocabulary, text_tokenizer = generator.vocabulary, generator.text_tokenizer
        try:
            self.samples.sampling.check(vocabulary.codebook_size)
        except ValueError as error:
            raise UserError(f"samples.sampling.{error}") from error
        self.prompts = [
            prompt_ids(text_tokenizer, text, room=vocabulary.text_room) for text in self.samples.prompts
        ]
        self.unconditional = prompt_ids(text_tokenizer, None)

    def __bool__(self) -> bool:
        return bool(self.prompts)

    def draw(self) -> Image.Image | None:
        """The page, on rank 0; called by all ranks together."""
        mine = range(dist.rank(), len(self.prompts), dist.world())
        pictures = [pixels for index in mine for pixels in self._pictures(index)]
        shares = dist.gather_objects(pictures)
        if not dist.is_main():
            return None
        rows = []
        for index, text in enumerate(self.samples.prompts):
            place, rank = divmod(index, dist.world())
            first = place * self.samples.per_prompt
            rows.append((text, [to_pil(p) for p in shares[rank][first : first + self.samples.per_prompt]]))
        return contact_sheet(rows)

    @torch.no_grad()
    def _pictures(self, index: int) -> list[torch.Tensor]:
        """uint8 (3, H, W) each. One prompt at a time, so that pictures do not depend on the number of ranks."""
        model, vqrae, count = self.generator.model, self.generator.vqrae, self.samples.per_prompt
        with evaluating(model):
            codes = Sampler(model, self.generator.vocabulary).sample(
                [self.prompts[index]],
                self.unconditional,
                owners=[0] * count,
                keys=[picture_key(self.seed, self.samples.prompts[index], sample) for sample in range(count)],
                sampling=self.samples.sampling,
            )
        pixels = vqrae.decode(codes.unflatten(1, self.generator.vocabulary.grid))
        return list(to_uint8(pixels).cpu())
