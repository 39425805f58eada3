"""Where the numbers go besides `metrics.jsonl`: TensorBoard, Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from common.errors import UserError, refusing

WriterName = Literal["tensorboard", "wandb"]


class Writer(Protocol):
    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def picture(self, step: int, name: str, image: Any) -> None: ...

    def close(self) -> None: ...


def check_writer(name: WriterName) -> None:
    """Find out before anything slow whether a writer can be had.

    Raises:
        UserError: it is not installed, or wants a key that nobody has given.
    """
    if name == "tensorboard":
        with refusing("logging.writers: tensorboard cannot be imported"):
            from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    else:
        _wandb_with_key()


def open_writer(name: WriterName, run: Path, identity: str, project: str, start: int) -> Writer:
    """A writer for a run.

    Args:
        identity: the run's own, see `run.identity`.
        start: the step that it goes on from; what was written behind it is superseded.
    """
    if name == "tensorboard":
        return TensorBoard(run, start)
    return WandB(run, identity, project)


class TensorBoard:
    """Event files in `RUN/tensorboard`."""

    def __init__(self, run: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # It drops what was written from the step on that it is given: the one it goes on from is still good.
        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, step: int, name: str, image: Any) -> None:
        from torchvision.transforms.functional import pil_to_tensor

        self._writer.add_image(name, pil_to_tensor(image), step)

    def close(self) -> None:
        self._writer.close()


def _wandb_with_key() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("logging.writers: wandb is not installed (uv pip install wandb)") from error
    with refusing("logging.writers: wandb"):
        offline = wandb.setup().settings.mode in ("offline", "disabled", "dryrun")
        alone = not offline and not wandb.api.api_key
    if alone:
        raise UserError(
            "logging.writers: wandb knows no API key: call `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
        )
    return wandb


class WandB:
    """A run of Weights & Biases, found again by its id."""

    def __init__(self, run: Path, identity: str, project: str) -> None:
        self._wandb = _wandb_with_key()
        with refusing("logging.writers: wandb"):
            self._run = self._wandb.init(
                project=project, name=run.name, dir=str(run), resume="allow", id=identity
            )
            # W&B's own counter only grows, and drops what a resumed run says once more; this axis may go back.
            self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, image: Any) -> None:
        self._run.log({name: self._wandb.Image(image), "step": step})

    def close(self) -> None:
        self._run.finish()
