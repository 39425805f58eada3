"""The held-out set during training: loss and accuracy over all ranks."""

from __future__ import annotations

import torch

from common import dist
from common.data.corrupt import CorruptCounter
from common.data.evaluation import evaluation_loader
from common.errors import UserError
from common.training.engine import autocast
from common.training.modes import evaluating
from common.training.stop import until_stopped
from generation.code_encoder import CodeEncoder
from generation.config import GenerationConfig
from generation.dataset import Batch, SequenceBuilder
from generation.objective import NextCode, perplexity


class HeldOut:
    """This rank's share of the held-out pictures, encoded once; those that cannot be read are counted. Their names
    were told at the start (`beginnings.try_held_out`).

    Raises:
        UserError: they cannot be read, or lie in a source that can only be streamed.
    """

    def __init__(self, config: GenerationConfig, builder: SequenceBuilder, encoder: CodeEncoder) -> None:
        self.precision = config.engine.precision
        self.batches: list[Batch] = []
        self.skipped = 0  # over all ranks
        source = config.evaluation.source
        if source is None:
            return
        loader = evaluation_loader(
            source,
            config.data.image_size,
            config.batch.micro_size,
            dist.rank(),
            dist.world(),
            limit=config.evaluation.limit,
            skip_corrupt=True,
            max_pixels=config.data.max_pixels,
        )
        unread = CorruptCounter(1.0, what="held-out images")
        for batch in loader:
            unread.add(batch["skipped"], len(batch["key"]) + len(batch["skipped"]))
            if batch["key"]:
                self.batches.append(builder(encoder(batch["pixels"]), batch["caption"], positions=None))
        self.skipped, told = unread.check_together()
        counts = torch.tensor(
            float(sum(batch["samples"] for batch in self.batches)), device=encoder.table.device
        )
        if not dist.sum_(counts).item():
            raise UserError(f"{source.path}: evaluation.source: none of its pictures could be read: {told}")

    @torch.no_grad()
    def evaluate(self, model: NextCode, device: torch.device) -> dict[str, float]:
        """Mean loss, its perplexity, accuracy, over how many images, and how many were `skipped`, if any; the same on
        all ranks. Nothing where the recipe has no held-out set.

        Raises:
            StoppedEarly: on all ranks, if one of them was asked to stop the run.
        """
        totals = torch.zeros(3, dtype=torch.float64, device=device)
        with evaluating(model):
            for batch in until_stopped(self.batches):
                inputs = (batch[name].to(device) for name in ("input_ids", "predictors", "targets"))
                with autocast(self.precision, device):
                    output = model(*inputs)
                here = torch.stack([output.loss, output.accuracy, torch.ones_like(output.loss)])
                totals += here.double() * batch["samples"]
        loss, accuracy, images = dist.sum_(totals).tolist()
        if not images:
            return {}
        loss, accuracy = loss / images, accuracy / images
        scores = {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy, "images": images}
        return scores | ({"skipped": self.skipped} if self.skipped else {})
