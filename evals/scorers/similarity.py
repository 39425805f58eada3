"""CLIP's similarity of a picture and its prompt as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize

from common import dist
from common.errors import refusing
from common.models.strict_loading import load_strictly
from common.models.weight_files import check_model_type, weights_sha256
from evals.scorers.prompts import ScoredPrompt
from evals.scorers.scorer import as_rgb


class ClipScorer:
    """Cosine of a picture's and its prompt's CLIP embeddings, 0 where they point apart. See `scorer.Scorer`.

    Says how many of `prompts` are longer than it reads: their ends are not judged.

    Raises:
        UserError: the folder holds no CLIP of transformers, or a damaged one.
    """

    def __init__(
        self, folder: Path, device: torch.device | str, prompts: Sequence[ScoredPrompt] = ()
    ) -> None:
        from transformers import AutoProcessor, CLIPModel

        check_model_type(folder, "clip")
        model = load_strictly(CLIPModel, folder, "a CLIP model", surplus=True, dtype=torch.float32)
        self.model = model.eval().to(device)
        with refusing(f"{folder}: no CLIP processor"):
            self.processor = AutoProcessor.from_pretrained(folder)
        self.longest = int(model.config.text_config.max_position_embeddings)
        self.identity = {
            "name": "clip similarity",
            "by": {"source": str(folder), "weights_sha256": weights_sha256(folder)},
        }
        if prompts:
            ids = self.processor.tokenizer([prompt.text for prompt in prompts]).input_ids
            cut = sum(len(one) > self.longest for one in ids)
            if cut and dist.is_main():
                print(
                    f"{folder}: {cut} of {len(prompts)} prompts are longer than the {self.longest} tokens that CLIP "
                    "reads; their ends are not judged",
                    flush=True,
                )

    @torch.inference_mode()
    def score(self, prompt: ScoredPrompt, pictures: Sequence[Image.Image]) -> list[float]:
        if not pictures:
            return []
        inputs = self.processor(
            text=[prompt.text],
            images=as_rgb(pictures),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.longest,
        ).to(self.model.device)
        output = self.model(**inputs)
        text, seen = normalize(output.text_embeds, dim=-1), normalize(output.image_embeds, dim=-1)
        return [float(one) for one in (seen @ text.T)[:, 0].clamp(0, 1)]
