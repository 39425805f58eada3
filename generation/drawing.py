"""Pictures for prompts as a command line asks for them: the options, and what they do.

Light on purpose: `--help` loads no model library.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from common.errors import UserError

if TYPE_CHECKING:
    from generation.picture_folder import Naming
    from generation.sampling import Sampling

DTYPES = ("float32", "bfloat16", "float16")
SAMPLING = ("cfg_scale", "cfg_schedule", "cfg_interval", "temperature", "top_k", "top_p", "greedy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that `Drawing.read` reads."""
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--cfg-scale", type=float, metavar="S", help="guidance strength; 1: none (default: 5)"
    )
    parser.add_argument(
        "--cfg-schedule",
        metavar="KIND",
        help="constant, or growing from 1: linear, cosine (default: constant)",
    )
    parser.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        metavar=("A", "B"),
        help="share of the codes that are guided (default: 0 1)",
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="default: 1")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="draw from the K most likely codes (default: all)"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest share P (default: 1)"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the most likely code")
    parser.add_argument("--tokens", type=int, metavar="N", help="codes per picture (default: as in training)")
    parser.add_argument(
        "--truncate", action="store_true", help="cut prompts that are too long, else an error"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="B", help="pictures per process at once (default: 16)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, as saved on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn.

    Args:
        tokens: codes of a picture; None: as in training. truncate: cut prompts that are too long.
        batch_size: pictures drawn at once by each process.
        dtype: a name of `DTYPES`; None: float32 on a CPU, as saved on a GPU.
        device: `auto`, or what torch calls it.
    """

    seed: int
    sampling: Sampling
    tokens: int | None
    truncate: bool
    batch_size: int
    dtype: str | None
    device: str

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From the values of `add_arguments`; of the sampler's settings, those not given keep their defaults.

        Raises:
            UserError: a setting out of range.
        """
        from generation.sampling import Sampling

        if given["batch_size"] < 1:
            raise UserError(f"--batch-size: expected 1 or more, found {given['batch_size']}")
        stated = {name: given[name] for name in SAMPLING if given[name] is not None}
        if "cfg_interval" in stated:
            stated["cfg_interval"] = tuple(stated["cfg_interval"])
        try:
            sampling = Sampling(**stated)
        except ValueError as error:
            raise _option(error) from error
        names = ("seed", "tokens", "truncate", "batch_size", "dtype", "device")
        return cls(sampling=sampling, **{name: given[name] for name in names})


def draw(
    drawing: Drawing,
    model: str,
    prompts: Sequence[str],
    n: int,
    folder: Path,
    naming: Naming | None = None,
) -> list[Path]:
    """Draw what `folder` does not hold yet: `n` pictures of each prompt; see `write_pictures`.

    Args:
        model: a generator's folder or hub id.

    Raises:
        UserError: a model, prompt or setting that cannot be used, before anything is drawn.
    """
    import torch

    from common import dist
    from generation.generator import Generator
    from generation.picture_folder import flat, write_pictures

    device = dist.start_process(drawing.device)
    dtype = getattr(torch, drawing.dtype) if drawing.dtype else None
    generator = Generator.from_pretrained(model, device, dtype)
    try:
        drawing.sampling.check(generator.vocabulary.codebook_size)
    except ValueError as error:
        raise _option(error) from error
    return write_pictures(
        generator,
        prompts,
        n,
        folder,
        seed=drawing.seed,
        sampling=drawing.sampling,
        batch_size=drawing.batch_size,
        tokens=drawing.tokens,
        truncate=drawing.truncate,
        naming=naming or flat,
        source=model,
    )


def _option(error: ValueError) -> UserError:
    """`top_k: expected ...` as the command line names it: `--top-k: expected ...`."""
    name, colon, rest = str(error).partition(":")
    return UserError(f"--{name.replace('_', '-')}{colon}{rest}")
