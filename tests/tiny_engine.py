"""An engine of every shape around a model that has one of everything: odd sizes, a tied head, a part without gradient,
a frozen one, buffers. Used in one process and by the pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import dist
from common.data.order import dealt
from common.training.engine import BatchConfig, EngineConfig, deepspeed_config, set_rates, start_engine
from common.training.engine_state import (
    engine_numbers,
    engine_tensors,
    load_engine_numbers,
    load_engine_tensors,
)
from common.training.optim import MuonConfig, constant_factor, parameter_groups, with_muon

GLOBAL, WIDTH, WORDS = 4, 5, 7


class Model(nn.Module):
    """Predicts a word from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH), nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Linear(3, 2)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, words: Tensor, targets: Tensor) -> Tensor:
        self.seen += self.training
        hidden = self.embedding(words)
        hidden = hidden + self.layers(hidden) + self.frozen(hidden)
        return F.cross_entropy(self.head(hidden).float(), targets)


def build(shape: dict[str, Any], seed: int = 0) -> Any:
    """`shape` holds fields of `EngineConfig`, and `muon`. The rate rises over three steps."""
    fields = {"precision": "fp32", **shape}
    muon = fields.pop("muon", False)
    torch.manual_seed(seed)
    model = Model()
    if fields["precision"] == "bf16":
        model.to(torch.bfloat16)
    groups = parameter_groups("all", [model], 1e-2, 0.1)
    if muon:
        groups = with_muon(groups, MuonConfig(lr=1e-2), model.embedding.weight)
    settings = deepspeed_config(
        EngineConfig(**fields),
        BatchConfig(global_size=GLOBAL, micro_size=GLOBAL // 2),
        dist.world(),
        None if muon else 1.0,
    )
    return start_engine(model, groups, lambda group: constant_factor(3), (0.9, 0.95), 1e-8, settings)


def train(engine: Any, start: int, steps: int) -> list[float]:
    """Steps `start` to `steps` on samples that follow from their position; the mean loss of each."""
    losses = []
    micro, turns = GLOBAL // 2, GLOBAL // (GLOBAL // 2) // dist.world()
    for step in range(start, steps):
        total = torch.zeros(())
        set_rates(engine, step)
        for turn in range(turns):
            places = dealt(turn, micro, dist.rank(), dist.world(), step * GLOBAL)
            words = torch.tensor([place * 5 % WORDS for place in places], device=engine.device)
            loss = engine(words, (words * 3 + 1) % WORDS)
            engine.backward(loss)
            engine.step()
            total += loss.detach().float().cpu() / turns
        losses.append(float(dist.sum_(total)) / dist.world())
    return losses


def save(engine: Any, folder: str) -> None:
    """This rank's tensors, in a file of its own."""
    Path(folder).mkdir(exist_ok=True)
    tensors = dict(engine_tensors(engine, "tiny"))
    torch.save((tensors, engine_numbers(engine)), f"{folder}/{dist.rank()}.pt")


def saved(folder: str | Path) -> dict[str, Tensor]:
    """All ranks' tensors; each must be on one of them alone."""
    files = [torch.load(path)[0] for path in sorted(Path(folder).glob("*.pt"))]
    whole: dict[str, Tensor] = {}
    for tensors in files:
        assert tensors.keys() == files[0].keys()
        mine = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        assert not mine.keys() & whole.keys()
        whole |= mine
    assert whole.keys() == files[0].keys()
    return whole


def go_on(
    shape: dict[str, Any], to: str, start: int = 0, steps: int = 0, of: str | None = None
) -> list[float]:
    """Build an engine, make it what folder `of` tells, train it until `steps` are done, save it in folder `to`."""
    engine = build(shape, seed=start)
    if of is not None:
        load_engine_tensors(engine, "tiny", saved(of).__getitem__)
        load_engine_numbers(engine, torch.load(f"{of}/0.pt")[1])
        save(engine, f"{to}_loaded")
    losses = train(engine, start, steps)
    save(engine, to)
    return losses
