"""Which prompts a step draws: dealt so that every tag has its share, in an order that nobody needs to remember.

What is notable here: the prompts of a step follow from (seed, number of the step's batch) alone. Each tag's prompts
come in permutation after permutation, so that none is drawn twice before all were drawn once; and a step has as many of
each tag, however few prompts a tag has, since a tag that is rarely rewarded is what a policy forgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.data.order import derive_key, permuted
from common.errors import UserError
from evals.scorers.prompts import ScoredPrompt

UNTAGGED = ""


@dataclass(frozen=True)
class Group:
    """One prompt of a step.

    Args:
        turn: how often the prompt stands in this step before; its pictures then go on with other noise.
    """

    prompt: ScoredPrompt
    turn: int


def tag_of(prompt: ScoredPrompt, balance: str = "tag") -> str:
    """GenEval's tag, where prompts are balanced by it and this one has any."""
    tag = prompt.metadata.get("tag")
    return tag if balance == "tag" and isinstance(tag, str) else UNTAGGED


class Dealer:
    """Deals prompts to steps.

    Args:
        prompts: at least one. per_step: how many a step has, over all ranks.

    Raises:
        UserError: the steps cannot have as many of each tag.
    """

    def __init__(self, prompts: Sequence[ScoredPrompt], per_step: int, balance: str, seed: int) -> None:
        self.seed, self.per_step = seed, per_step
        self.tags: dict[str, list[ScoredPrompt]] = {}
        for prompt in prompts:
            self.tags.setdefault(tag_of(prompt, balance), []).append(prompt)
        if per_step % len(self.tags):
            told = ", ".join(f"{tag or 'no tag'} {len(found)}" for tag, found in self.tags.items())
            raise UserError(
                f"rollouts.prompts: expected a multiple of the {len(self.tags)} tags that the prompts have ({told}), "
                f"found {per_step}; or set prompts.balance=none"
            )

    def deal(self, batch: int) -> list[Group]:
        """The prompts of batch number `batch`, from 0, tag after tag in turn."""
        share = self.per_step // len(self.tags)
        chosen: list[ScoredPrompt] = []
        for place in range(share):
            for tag, prompts in self.tags.items():
                epoch, index = divmod(batch * share + place, len(prompts))
                key = derive_key(self.seed, "prompts", tag, epoch)
                chosen.append(prompts[permuted(index, len(prompts), key)])
        seen: dict[str, int] = {}
        groups = []
        for prompt in chosen:
            turn = seen.get(prompt.text, 0)
            seen[prompt.text] = turn + 1
            groups.append(Group(prompt, turn))
        return groups
