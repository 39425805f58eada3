"""What a run says while it runs: one line and a progress bar on rank 0, JSONL always, TensorBoard or W&B if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from common import dist
from common.config import configclass
from common.errors import UserError
from common.files import write_png, write_text, writing


@configclass
class LoggingConfig:
    """Steps between lines, pictures and evaluations, and where the numbers go besides `metrics.jsonl`."""

    log_every: int
    picture_every: int
    evaluate_every: int
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    wandb_project: str = "vqrae"


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

    def rewind(self, step: int) -> None:
        """The run goes back to a step: what was recorded behind it is superseded."""
        if dist.is_main():
            self.file.close()
            _drop_after(self.path, step)
            self.file = self.path.open("a", encoding="utf-8")
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
        record = {"step": step, "kind": kind, **{key: _short(value) for key, value in values.items()}}
        with writing(self.path):
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
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
            self.file.close()
            for writer in self.writers:
                writer.close()


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
        write_text(path, "".join(line + "\n" for line in kept))


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _human(value: float) -> str:
    return f"{value:.4g}"
