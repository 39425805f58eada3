"""Conversations that are not trained on: what they cost, how many answers are right, and a sheet to look at.

What is notable here: nothing is generated. Greedy decoding gives an answer exactly if every one of its tokens is the
likeliest one after the right ones before it, so one forward pass tells which answers are exact, on all ranks at once
and under any ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaProcessor

from common import dist
from common.data.corrupt import CorruptCounter
from common.data.images import to_pil
from common.models.vision_encoder import VisionEncoder
from common.sheets import Answer, answer_sheet
from common.training.engine import autocast
from common.training.modes import evaluating
from common.training.stop import until_stopped
from understanding.assemble import assemble_dataset, read_features
from understanding.batches import Batch, read_batch
from understanding.config import UnderstandingConfig
from understanding.conversation import BadSample
from understanding.dataset import ConversationDataset
from understanding.objective import LanguageSide
from understanding.templates import IMAGE_TOKEN

SHOWN = 8


class HeldOut:
    """The recipe's held-out conversations; without any, the sheet shows the first ones that are trained on.

    Those that cannot be read are found here, left out, and stand in `notices`, a warning for each set.

    Args:
        trained_on: the run's own data.

    Raises:
        UserError: more of the held-out ones cannot be read than `data.max_skipped_share` allows.
    """

    def __init__(
        self,
        config: UnderstandingConfig,
        tower: VisionEncoder,
        processor: LlavaProcessor,
        trained_on: ConversationDataset,
    ) -> None:
        source, limit = config.evaluation.source, config.evaluation.limit
        self._tower, self._text_tokenizer = tower, processor.tokenizer
        self._precision, self._micro_size = config.engine.precision, config.batch.micro_size
        self._dataset = assemble_dataset(config, [source], processor, limit) if source else trained_on
        usable = self._dataset.usable.nonzero()[0].tolist()
        self.notices: list[str] = []
        if source is not None:
            usable = self._readable(usable, config.data.max_skipped_share)
        self.samples: list[int] = usable if source else []
        readable = set(usable)
        with_images = [index for index in self._dataset.with_images() if index in readable]
        self._shown = (with_images or usable)[:SHOWN]

    def _readable(self, usable: list[int], max_share: float) -> list[int]:
        """Those whose pictures can be read: each rank looks at its share, and all learn the same."""
        unread = CorruptCounter(max_share, "data.max_skipped_share", "held-out samples", minimum=1)
        problems = dict(self._dataset.problems()) if dist.is_main() else {}
        unread.add((self._dataset.describe(*found) for found in problems.items()), len(problems))
        damaged = []
        for index in usable[dist.rank() :: dist.world()]:
            try:
                self._dataset.read(index)
            except BadSample as problem:
                damaged.append(index)
                unread.add([self._dataset.describe(index, problem)], 1)
            else:
                unread.add([], 1)
        skipped, told = unread.check_together()
        if skipped:
            self.notices.append(f"warning: evaluation.source: {told}")
        gone = {index for rank in dist.gather_objects(damaged) for index in rank}
        return [index for index in usable if index not in gone]

    def scores(self, side: LanguageSide) -> dict[str, float]:
        """`loss` and `token_accuracy` over learned tokens, `exact` over answers, and how many samples were read; each
        sample once over all ranks, the same numbers on all of them.

        Raises:
            StoppedEarly: on all ranks, if one of them was asked to stop the run.
        """
        totals = torch.zeros(6, dtype=torch.float64)  # loss, tokens, hits, answers, exact answers, samples
        rounds = -(-len(self.samples) // (self._micro_size * dist.world()))
        # As many on every rank: ZeRO-3 partitions across them.
        for number in until_stopped(range(rounds), together=True):
            first = (number * dist.world() + dist.rank()) * self._micro_size
            batch = self._read(self.samples[first : first + self._micro_size])
            loss, predicted = self._predict(side, batch)
            hits = predicted == batch["targets"]
            exact = [bool(hits[answer].all()) for answer in answers(batch)]
            totals += torch.tensor(
                [loss, len(hits), int(hits.sum()), len(exact), sum(exact), batch["samples"]],
                dtype=torch.float64,
            )
        device = self._tower.model.device
        loss, tokens, hits, every, exact, samples = dist.sum_(totals.to(device)).tolist()
        return {
            "loss": loss / max(tokens, 1),
            "token_accuracy": hits / max(tokens, 1),
            "exact": exact / max(every, 1),
            "samples": samples,
        }

    def sheet(self, side: LanguageSide) -> Image.Image:
        """The same few pictures at every step of a run, with what was asked, what is right, and what the model says
        after the right words before. Called on all ranks."""
        rows = []
        for index in self._shown:
            batch = self._read([index])
            _, predicted = self._predict(side, batch)
            conversation = self._dataset.conversation(index)
            asked = [
                turn["content"].replace(IMAGE_TOKEN, "")
                for turn in conversation.messages
                if turn["role"] == "user"
            ]
            texts = [
                (question, self._decode(batch["targets"][answer]), self._decode(predicted[answer]))
                for question, answer in zip(asked, answers(batch), strict=False)
            ]
            pixels = batch["pixel_values"]
            picture = to_pil(self._tower.denormalize(pixels[0])) if len(pixels) else None
            rows.append(Answer(picture, texts))
        return answer_sheet(rows)

    def _read(self, indices: list[int]) -> Batch:
        return read_batch(self._dataset, [(index,) for index in indices], packed=False)

    @torch.no_grad()
    def _predict(self, side: LanguageSide, batch: Batch) -> tuple[float, Tensor]:
        """Summed loss, and the likeliest token (M,) at every learned place, on the CPU."""
        features = read_features(self._tower, batch["pixel_values"], self._precision)
        with evaluating(side), autocast(self._precision, self._tower.model.device):
            loss, predicted = side(
                batch["input_ids"], features, batch["predictors"], batch["targets"], batch["attention_mask"]
            )
        return float(loss), predicted.cpu()

    def _decode(self, ids: Tensor) -> str:
        return self._text_tokenizer.decode(ids, skip_special_tokens=True).strip()


def answers(batch: Batch) -> Iterator[slice]:
    """Where each answer's tokens stand among the M learned ones of a micro-batch: runs without a gap."""
    places = batch["predictors"].tolist()
    start = 0
    for number in range(1, len(places) + 1):
        if number == len(places) or places[number] != places[number - 1] + 1:
            yield slice(start, number)
            start = number
