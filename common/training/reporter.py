"""What a run says while it runs: a line and a progress bar on rank 0, its records, TensorBoard or W&B if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from common import dist
from common.config import Count, configclass
from common.files import write_png
from common.training.records import Records
from common.training.run import identity
from common.training.writers import Writer, WriterName, open_writer


@configclass
class LoggingConfig:
    """Steps between lines, pictures and evaluations, and where the numbers go besides `metrics.jsonl`."""

    log_every: Count
    picture_every: Count
    evaluate_every: Count
    writers: tuple[WriterName, ...] = ("tensorboard",)
    wandb_project: str = "vqrae"


class Reporter:
    """Rank 0's voice; silent on all other ranks.

    Args:
        folder: the run's folder; `metrics.jsonl` there is appended to (see `records`).
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
        self.writers: list[Writer] = []
        if not dist.is_main():
            return
        self.records = Records(folder, start)
        own, project = identity(folder), config.wandb_project
        self.writers = [open_writer(name, folder, own, project, start) for name in config.writers]

    def rewind(self, step: int) -> None:
        """The run goes back to a step: what was recorded behind it is superseded."""
        if dist.is_main():
            self.records.rewind(step)
            self.bar.n = step
            self.bar.refresh()

    def advance(self) -> None:
        self.bar.update()

    def say(self, text: str) -> None:
        if dist.is_main():
            tqdm.write(text)

    def line(self, step: int, values: dict[str, float], kind: str = "train") -> None:
        """One record; `kind` groups it (`train`, `evaluation`)."""
        if not dist.is_main():
            return
        short = {key: _short(value) for key, value in values.items()}
        self.records.append({"step": step, "kind": kind, **short})
        for writer in self.writers:
            writer.scalars(step, {f"{kind}/{key}": value for key, value in values.items()})
        shown = "  ".join(f"{key} {_human(value)}" for key, value in values.items())
        self.say(f"step {step:>7} {kind}  {shown}")

    def picture(self, step: int, image: Any, path: Path) -> None:
        """A PIL picture, as a PNG and to the writers. Rank 0 only has one to give."""
        if dist.is_main():
            write_png(path, image)
            for writer in self.writers:
                writer.picture(step, path.parent.name, image)

    def close(self, farewell: str) -> None:
        self.say(farewell)
        self.bar.close()
        if dist.is_main():
            self.records.close()
            for writer in self.writers:
                writer.close()


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _human(value: float) -> str:
    return f"{value:.4g}"
