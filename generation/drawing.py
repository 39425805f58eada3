"""How pictures are to be drawn, as a command line says it. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from common.command import add_batch_size, add_device
from common.errors import UserError

if TYPE_CHECKING:
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
    add_batch_size(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, as saved on a GPU")
    add_device(parser)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn.

    Args:
        batch_size: pictures drawn at once by each process, at least 1.
        tokens: codes of a picture; None: as in training. truncate: cut prompts that are too long.
        dtype: a name of `DTYPES`; None: float32 on a CPU, as saved on a GPU.
        device: `auto`, or what torch calls it.
    """

    seed: int
    sampling: Sampling
    batch_size: int
    tokens: int | None = None
    truncate: bool = False
    dtype: str | None = None
    device: str = "auto"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From the values of `add_arguments`; of the sampler's settings, those not given keep their defaults.

        Raises:
            UserError: a setting out of range.
        """
        from generation.sampling import Sampling

        stated = {name: given[name] for name in SAMPLING if given[name] is not None}
        if "cfg_interval" in stated:
            stated["cfg_interval"] = tuple(stated["cfg_interval"])
        try:
            sampling = Sampling(**stated)
        except ValueError as error:
            raise option_error(error) from error
        names = ("seed", "batch_size", "tokens", "truncate", "dtype", "device")
        return cls(sampling=sampling, **{name: given[name] for name in names})


def option_error(error: ValueError) -> UserError:
    """A setting's `top_k: expected ...` as the command line names it: `--top-k: expected ...`."""
    name, colon, rest = str(error).partition(":")
    return UserError(f"--{name.replace('_', '-')}{colon}{rest}")
