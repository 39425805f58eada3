"""mPLUG's beam search, which is not transformers'.

Source: modelscope's `mplug/predictor.py` (Apache-2.0). A beam that has ended stays among the beams and is drawn on, and
a question is done only when its best beam ends: so an answer may bear words behind its end, which count as words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertLMHeadModel, DynamicCache, EncoderDecoderCache

START, END = 101, 102  # [CLS] and [SEP] of BERT's vocabulary, as the original has them
ALPHA = 0.6  # of the length penalty
NEVER = -1e20


@dataclass(frozen=True, kw_only=True)
class Search:
    """How answers are drawn: `beams` of them at once, of `shortest` to `longest` tokens, the end among them."""

    beams: int = 5
    shortest: int = 1
    longest: int = 10


def best_answers(decoder: BertLMHeadModel, states: Tensor, mask: Tensor, search: Search) -> list[list[int]]:
    """For each question the ids of its best answer, from `START` on.

    Args:
        states: what the decoder looks at, (Q, N, D). mask: (Q, N), 1 where something is.
    """
    questions, beams = len(states), search.beams
    rows = torch.arange(questions, device=states.device)[:, None] * beams
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    alive = torch.full((questions, 1, 1), START, device=states.device)
    totals = torch.zeros(questions, 1, device=states.device)
    candidates: list[list[tuple[float, list[int]]]] = [[] for _ in range(questions)]
    waiting = set(range(questions))
    for step in range(search.longest):
        logits = decoder(
            alive[:, :, -1].flatten()[:, None],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
        ).logits[:, -1]
        log_probs = logits.float().log_softmax(-1)
        if step < search.shortest:
            log_probs[:, END] = NEVER
        penalty = ((5 + step + 1) / 6) ** ALPHA
        scores = (totals.flatten()[:, None] + log_probs) / penalty
        best, places = scores.view(questions, -1).topk(beams)
        totals = best * penalty
        parents, tokens = places // log_probs.shape[-1], places % log_probs.shape[-1]
        before = alive.gather(1, parents[..., None].expand(-1, -1, alive.shape[-1]))
        alive = torch.cat([before, tokens[..., None]], dim=-1)
        for question in sorted(waiting):
            done = step + 1 == search.longest or tokens[question, 0].item() == END
            for beam in range(beams):
                if done or tokens[question, beam].item() == END:
                    candidates[question].append((best[question, beam].item(), alive[question, beam].tolist()))
            if done:
                waiting.remove(question)
        if not waiting:
            break
        if step == 0:  # until here the beams were one
            cache.batch_repeat_interleave(beams)
            states, mask = states.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)
        else:  # what a question's beams look at is the same for all
            cache.self_attention_cache.reorder_cache((rows + parents).flatten())
    return [max(found, key=lambda candidate: candidate[0])[1] for found in candidates]
