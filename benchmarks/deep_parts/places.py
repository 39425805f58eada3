"""What a cell of the table is, and where its things are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`kind` is what is trained, `encoder` and `arm` on what."""

    kind: str
    encoder: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}/{self.encoder}/{self.arm}/{self.seed}"

    def at(self, kind: str, seed: int = 0) -> Cell:
        """The cell that this one goes on from."""
        return Cell(kind=kind, encoder=self.encoder, arm=self.arm, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are: the demo's folder, the encoder trained for meaning alone, and what this benchmark leaves."""

    demo: Path
    output: Path
    precision: str
    photos: tuple[Path, ...] = ()
    held_out_photos: Path | None = None
    teacher: Path | None = None

    def run(self, cell: Cell) -> Path:
        return self.output / "runs" / str(cell)

    def encoder(self, name: str) -> Path:
        return self.demo / "encoder" if name == "demo" else self.output / f"encoder_{name}"
