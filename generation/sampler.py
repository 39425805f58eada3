"""Draws pictures, as codes: exactly N steps, over the code slice of the head only.

What is notable here:
- One prefill reads every distinct prompt and the unconditional one together; its keys and values are then copied to all
  pictures of that prompt.
- With guidance, each picture has two rows, and both are fed the code that is drawn once.
- Outside the guidance interval the unconditional rows are not computed. Where it begins later, they catch up on the
  codes drawn so far in one pass.
- A step reads and writes fixed buffers only, and its random numbers are a pure function (see `gumbel`), so on a GPU the
  whole step is recorded as a CUDA graph and replayed; one graph for each `GRAPH_STRIDE` slots of length.

Legend: B pictures, N codes of each, K codes, P slots of the longest prompt, T slots in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from generation.gumbel import draw, picture_key
from generation.qwen3_decoder import Cache, Decoder
from generation.sampling import Sampling
from generation.vocabulary import VisualVocabulary

__all__ = ["Sampler", "Sampling", "picture_key"]

GRAPH_STRIDE = 128  # slots; a step attends to at most so many that are still empty
CATCH_UP_ROWS = 8  # rows that catch up at once, so that their attention masks stay small


class Sampler:
    """Holds a copy of the model's layers, made for decoding: `refresh` it when the weights have changed.

    Args:
        model: a `Qwen3ForCausalLM` with the vocabulary's rows, in any floating type, on any one device.
        graphs: record CUDA graphs; None: if the model is on a GPU.
        stride: attended lengths are rounded up to a multiple of it; None: `GRAPH_STRIDE` with graphs, else 1.
        scored: keep the log-probability of each code that is drawn, under the mixed and tempered prediction over all K
            codes (top-k and top-p left out), in `log_probs`.

    Attributes:
        log_probs: (B, N) float32 of the last pictures, in nats; None unless `scored`.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: VisualVocabulary,
        graphs: bool | None = None,
        stride: int | None = None,
        scored: bool = False,
    ) -> None:
        self.vocabulary, self.scored = vocabulary, scored
        self.log_probs: Tensor | None = None
        self.decoder = Decoder(model, vocabulary.code_slice)
        self.graphs = self.decoder.device.type == "cuda" if graphs is None else graphs
        self.stride = stride or (GRAPH_STRIDE if self.graphs else 1)
        self.longest: int = model.config.max_position_embeddings
        self._batch: _Batch | None = None

    def refresh(self, model: Any) -> None:
        """Draw with the weights as they are now; buffers and recorded graphs stay.

        Raises:
            ValueError: another model than the sampler was made of.
        """
        self.decoder.refresh(model)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        unconditional: Sequence[int],
        owners: Sequence[int],
        keys: Sequence[int],
        sampling: Sampling,
        steps: int | None = None,
        on_step: Callable[[], object] | None = None,
        width: int = 0,
    ) -> Tensor:
        """Draw B pictures.

        Args:
            prompts: ids of each distinct prompt, begin_image last (see `prompt.prompt_ids`).
            unconditional: the same of the unconditional prompt.
            owners: for each picture the index of its prompt.
            keys: for each picture the key of its random numbers (see `gumbel.picture_key`).
            steps: N; None: as many as the vocabulary's grid has.
            on_step: called after each code.
            width: slots of every prompt, at least the longest's: more give the same shapes to shorter ones.

        Returns:
            Codes (B, N) int64 in [0, K), in raster order, on the model's device.

        Raises:
            ValueError: no picture, an empty prompt, `top_k` over K, or more tokens than the model has positions.
            UserError: the model's logits are not finite.
        """
        steps = self.vocabulary.image_tokens if steps is None else steps
        sampling.check(self.vocabulary.codebook_size)
        if not owners or len(owners) != len(keys) or steps < 1:
            raise ValueError(
                f"expected one key for each picture, found {len(owners)} pictures, {len(keys)} keys"
            )
        if not all(len(prompt) for prompt in (*prompts, unconditional)):
            raise ValueError("prompts: each ends in begin_image, found an empty one")
        used = sorted(set(owners))
        rows = [list(prompts[owner]) for owner in used]
        with torch.inference_mode():
            codes = self._sample(
                rows,
                list(unconditional),
                [used.index(owner) for owner in owners],
                keys,
                sampling,
                steps,
                on_step,
                width,
            )
        return codes.clone()  # outside of inference mode: an ordinary tensor

    def _sample(
        self,
        prompts: list[list[int]],
        unconditional: list[int],
        owners: list[int],
        keys: Sequence[int],
        sampling: Sampling,
        steps: int,
        on_step: Callable[[], object] | None,
        width: int,
    ) -> Tensor:
        scales = sampling.scales(steps)
        guided = [step for step, scale in enumerate(scales) if scale != 1]
        first, last = (guided[0], guided[-1]) if guided else (steps, -1)
        distinct = [*prompts, *([unconditional] if guided else [])]
        start = max(width, *map(len, distinct))  # P: the first code's slot
        if start + steps > self.longest:
            raise ValueError(
                f"prompt and picture: {start} + {steps} tokens, the model has {self.longest} positions"
            )
        halves = 2 if guided else 1
        batch = self._room_for(len(owners), halves, start + steps, steps, sampling)
        at = [*owners, *[len(prompts)] * (len(owners) * (halves - 1))]  # of each row, in `distinct`
        batch.start(start, [start - len(distinct[place]) for place in at], keys, scales)

        rows = batch.images * (2 if first == 0 else 1)
        batch.choose(self._prefill(distinct, at, batch.cache, start)[:rows])
        for step in range(1, steps):
            if on_step is not None:
                on_step()
            if step == first and step > 1:
                self._catch_up(batch, start, step)
            rows = batch.images * (2 if first <= step <= last else 1)
            filled = start + step
            length = min(-(-filled // self.stride) * self.stride, batch.cache.slots)
            batch.replay(rows, length) if self.graphs else batch.advance(rows, length)
        if on_step is not None:
            on_step()
        batch.check_finite(self.decoder.dtype)
        self.log_probs = batch.log_probs.clone() if batch.log_probs is not None else None
        return batch.codes

    def _room_for(self, images: int, halves: int, length: int, steps: int, sampling: Sampling) -> _Batch:
        """The last batch's buffers (and graphs), where they fit."""
        slots = -(-length // self.stride) * self.stride
        wanted = (images, halves, slots, steps, sampling)
        if self._batch is None or self._batch.made_for != wanted:
            self._batch = None  # freed before the next is allocated
            self._batch = _Batch(self.decoder, self.vocabulary.first_code, *wanted, scored=self.scored)
        return self._batch

    def _prefill(self, distinct: list[list[int]], at: list[int], cache: Cache, start: int) -> Tensor:
        """Read every prompt once, into the cache rows of all its pictures; logits of their first codes (R, K)."""
        device = self.decoder.device
        small = self.decoder.new_cache(len(distinct), start)
        ids = torch.zeros(len(distinct), start, dtype=torch.int64)
        for row, prompt in enumerate(distinct):
            ids[row, start - len(prompt) :] = torch.tensor(prompt)
        small.padding.copy_(torch.tensor([start - len(prompt) for prompt in distinct]))
        everything = slice(0, len(distinct))
        bias = small.causal_bias(everything, 0, start)
        slots = torch.arange(start, device=device)
        logits = self.decoder(ids.to(device), small, everything, slots, start, bias)
        places = torch.tensor(at, device=device)
        for kept, read in zip((*cache.keys, *cache.values), (*small.keys, *small.values), strict=True):
            kept[:, :, :start] = read[places]
        return logits[places]

    def _catch_up(self, batch: _Batch, start: int, step: int) -> None:
        """The unconditional rows read the codes drawn while they were left out, but for the last, which comes next."""
        ids = batch.codes[:, : step - 1] + self.vocabulary.first_code
        stop = start + step - 1
        slots = torch.arange(start, stop, device=ids.device)
        for index in range(0, batch.images, CATCH_UP_ROWS):
            part = ids[index : index + CATCH_UP_ROWS]
            rows = slice(batch.images + index, batch.images + index + len(part))
            self.decoder(part, batch.cache, rows, slots, stop, batch.cache.causal_bias(rows, start, stop))


class _Batch:
    """The buffers of B pictures: rows 0 to B - 1 are conditional, B to 2 B - 1 their unconditional halves."""

    def __init__(
        self,
        decoder: Decoder,
        first_code: int,
        images: int,
        halves: int,
        slots: int,
        steps: int,
        sampling: Sampling,
        scored: bool,
    ) -> None:
        device = decoder.device
        self.made_for = (images, halves, slots, steps, sampling)
        self.decoder, self.first_code, self.images, self.sampling = decoder, first_code, images, sampling
        self.cache = decoder.new_cache(images * halves, slots)
        self.bias = self.cache.cos.new_empty(images * halves, 1, 1, slots)
        self.scales = torch.empty(steps, device=device)
        self.extremes = torch.zeros(2, device=device)
        self.log_probs = torch.zeros(images, steps, device=device) if scored else None
        self.codes, self.tokens, self.keys, self.step, self.slot = (
            torch.zeros(shape, dtype=torch.int64, device=device)
            for shape in ((images, steps), (images * halves, 1), images, 1, 1)
        )
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def start(self, slot: int, padding: Sequence[int], keys: Sequence[int], scales: Sequence[float]) -> None:
        """Make the buffers those of other pictures, whose first code takes `slot`."""
        self.cache.padding.copy_(torch.tensor(padding))
        self.keys.copy_(torch.tensor(keys))
        self.scales.copy_(torch.tensor(scales))
        self.step.zero_()
        self.extremes.zero_()
        self.slot.fill_(slot)
        places = torch.arange(self.bias.shape[-1], device=self.bias.device)
        seen = (places >= self.cache.padding[:, None]) & (places < slot)
        self.bias.zero_().masked_fill_(~seen[:, None, None], -torch.inf)

    def advance(self, rows: int, length: int) -> None:
        """Feed the last codes to the first `rows` rows, which see at most `length` slots, and draw the next ones."""
        self.bias.index_fill_(3, self.slot, 0)
        used = slice(0, rows)
        seen = self.bias[used, :, :, :length]
        logits = self.decoder(self.tokens[used], self.cache, used, self.slot, length, seen)
        self.slot += 1
        self.choose(logits)

    def choose(self, logits: Tensor) -> None:
        """Draw a code for each picture from the logits (B or 2 B, K), float32."""
        conditional = logits[: self.images]
        if len(logits) > self.images:
            unconditional = logits[self.images :]
            scale = self.scales.index_select(0, self.step)
            conditional = unconditional + scale * (conditional - unconditional)
        # Times 0, what is not finite becomes no number, and stays so in a sum; asked for once, since a GPU waits.
        self.extremes += torch.stack(conditional.aminmax()) * 0
        codes = draw(conditional, self.sampling, self.keys, self.step)
        self.codes.index_copy_(1, self.step, codes[:, None])
        if self.log_probs is not None:
            likely = (conditional / self.sampling.temperature).log_softmax(-1)
            self.log_probs.index_copy_(1, self.step, likely.gather(1, codes[:, None]))
        self.tokens.view(-1, self.images).copy_(codes + self.first_code)
        self.step += 1

    def check_finite(self, dtype: torch.dtype) -> None:
        """Raises `UserError` if a logit of any step was not finite: what was drawn then means nothing."""
        if not bool(self.extremes.isfinite().all()):
            kind = str(dtype).removeprefix("torch.")
            raise UserError(
                f"the generator's logits are not finite in {kind}: its weights are damaged, or {kind} is too narrow "
                "for them (--dtype float32)"
            )

    def replay(self, rows: int, length: int) -> None:
        """`advance` by a CUDA graph, which is recorded at its first use."""
        if (rows, length) not in self._graphs:
            state = (self.codes, self.tokens, self.step, self.slot, self.extremes)
            before = [tensor.clone() for tensor in state]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries allocate at their first call, which no graph may do
                self.advance(rows, length)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
            with torch.cuda.graph(graph):
                self.advance(rows, length)
            self._graphs[rows, length] = graph
        self._graphs[rows, length].replay()
