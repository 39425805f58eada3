"""What a run says while it runs: one line and a progress bar on rank 0, JSONL always, TensorBoard or W&B if asked.

Terms are summed on the device; the host waits for it only when a line is due. The same goes for the check that
all terms are finite: the first bad step of each term is remembered on the device and read at the next line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from common import dist
from common.config import configclass
from common.errors import UserError


class NonFiniteLoss(UserError):
    """A loss term became NaN or infinite."""


@configclass
class LoggingConfig:
    """Steps between lines, pictures and evaluations, and where the numbers go besides `metrics.jsonl`."""

    log_every: int
    picture_every: int
    evaluate_every: int
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    wandb_project: str = "vqrae"


class Terms:
    """Means of scalar terms between two lines, over micro-steps and ranks."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.first_bad: dict[str, Tensor] = {}

    def add(self, step: int, **terms: Tensor) -> None:
        """Detached scalars of one micro-step; no device sync."""
        for name, value in terms.items():
            value = value.detach().float()
            if name not in self.sums:
                self.sums[name] = torch.zeros((), device=self.device, dtype=torch.float64)
                self.counts[name] = 0
            if name not in self.first_bad:
                self.first_bad[name] = torch.full((), -1.0, device=self.device)
            bad = ~torch.isfinite(value) & (self.first_bad[name] < 0)
            self.first_bad[name] = torch.where(bad, float(step), self.first_bad[name])
            self.sums[name] += value
            self.counts[name] += 1

    def check_finite(self) -> None:
        """Raises `NonFiniteLoss` naming term, step and rank; on all ranks alike."""
        names = sorted(self.first_bad)
        mine = torch.stack([self.first_bad[name] for name in names]).tolist() if names else []
        found = [(step, name) for name, step in zip(names, mine, strict=True) if step >= 0]
        every = [(*min(bad), rank) for rank, bad in enumerate(dist.gather_objects(found)) if bad]
        if every:
            step, name, rank = min(every)
            raise NonFiniteLoss(f"loss term {name}: not finite at step {int(step)} on rank {rank}")

    def take(self) -> dict[str, float]:
        """Means since the last call, over ranks; then starts anew. All ranks call it with the same terms."""
        names = sorted(self.sums)
        if not names:
            return {}
        totals = torch.stack([self.sums[name] / self.counts[name] for name in names])
        means = (dist.sum_(totals) / dist.world()).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, means, strict=True))


class Stopwatch:
    """What was done per second between two lines, over all ranks, and the share of that time spent waiting for data.

    Counts of this rank are plain numbers on the host; they are summed over ranks when a line is due.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start()

    def _start(self) -> None:
        self.since, self.waited = time.perf_counter(), 0.0
        self.counts: dict[str, float] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def count(self, **amounts: float) -> None:
        """Add what this rank has done, such as `images=4`."""
        for name, amount in amounts.items():
            self.counts[name] = self.counts.get(name, 0.0) + amount

    def take(self) -> dict[str, float]:
        """`NAME_per_second` of all that was counted, and `data_wait`; then starts anew. Called on all ranks, with the
        same names, where the device has just been waited for."""
        elapsed = time.perf_counter() - self.since
        totals = dist.sum_(torch.tensor(list(self.counts.values()), device=self.device)).tolist()
        rates = {
            f"{name}_per_second": total / elapsed for name, total in zip(self.counts, totals, strict=True)
        }
        values = {**rates, "data_wait": self.waited / elapsed}
        self._start()
        return values


class Reporter:
    """Rank 0's voice; silent on all other ranks.

    Args:
        folder: the run's folder; `metrics.jsonl` there is appended to, and after a resume the lines past the
            resumed step are dropped.
        total: steps in all, for the bar.
        start: the step to resume from.
    """

    def __init__(self, folder: Path, config: LoggingConfig, total: int, start: int) -> None:
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=folder.name,
            unit="step",
            disable=not dist.is_main(),
            dynamic_ncols=True,
        )
        self.writers: list[Any] = []
        if not dist.is_main():
            return
        self.path = folder / "metrics.jsonl"
        _drop_after(self.path, start)
        self.file = self.path.open("a", encoding="utf-8")
        if "tensorboard" in config.writers:
            from torch.utils.tensorboard import SummaryWriter

            self.writers.append(_TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=start)))
        if "wandb" in config.writers:
            self.writers.append(_wandb(config.wandb_project, folder))

    def advance(self) -> None:
        self.bar.update()

    def say(self, text: str) -> None:
        if dist.is_main():
            tqdm.write(text)

    def line(self, step: int, values: dict[str, float], kind: str = "train") -> None:
        """One record; `kind` groups it (`train`, `evaluation`)."""
        if not dist.is_main():
            return
        record = {"step": step, "kind": kind, **{key: _short(value) for key, value in values.items()}}
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        for writer in self.writers:
            writer.scalars(step, {f"{kind}/{key}": value for key, value in values.items()})
        shown = "  ".join(f"{key} {_human(value)}" for key, value in values.items())
        self.say(f"step {step:>7} {kind}  {shown}")

    def picture(self, step: int, image: Any, path: Path) -> None:
        """A PIL picture, as a PNG and to the writers. Rank 0 only has one to give."""
        if dist.is_main():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {error.strerror}") from error
            for writer in self.writers:
                writer.picture(step, path.parent.name, image)

    def close(self, farewell: str) -> None:
        self.say(farewell)
        self.bar.close()
        if dist.is_main():
            self.file.close()
            for writer in self.writers:
                writer.close()


def memory_gib(device: torch.device) -> float:
    """Peak memory: the device's allocation on CUDA, the process's resident set on a CPU; GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def picture(self, step: int, name: str, image: Any) -> None:
        from torchvision.transforms.functional import pil_to_tensor

        self.writer.add_image(name, pil_to_tensor(image), step)

    def close(self) -> None:
        self.writer.close()


def _wandb(project: str, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("logging.writers: wandb is not installed (uv pip install wandb)") from error

    run = wandb.init(project=project, name=folder.name, dir=str(folder), resume="allow", id=folder.name)

    class Writer:
        def scalars(self, step: int, values: dict[str, float]) -> None:
            run.log(values, step=step)

        def picture(self, step: int, name: str, image: Any) -> None:
            run.log({name: wandb.Image(image)}, step=step)

        def close(self) -> None:
            run.finish()

    return Writer()


def _drop_after(path: Path, step: int) -> None:
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _human(value: float) -> str:
    return f"{value:.4g}"
