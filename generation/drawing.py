"""How pictures are to be drawn, as a command line says it. Light on purpose: `--help` loads no model library."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from common.command import add_batch_size, add_device
from common.errors import UserError

if TYPE_CHECKING:
    from generation.sampling import Sampling

DTYPES = ("float32", "bfloat16", "float16")
SAMPLING = ("cfg_scale", "cfg_schedule", "cfg_interval", "temperature", "top_k", "top_p", "greedy")
ALL_CODES = "all"
LARGEST_SEED = 2**63 - 1  # what all of torch's, numpy's and JSON's readers take for a whole number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that `Drawing.read` reads."""
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    settings = parser.add_argument_group(
        "sampling", "what is not stated is as the generator's folder says (MODEL/sampling.json)"
    )
    settings.add_argument("--cfg-scale", type=float, metavar="S", help="guidance strength; 1: none")
    settings.add_argument(
        "--cfg-schedule", metavar="KIND", help="constant, or growing from 1: linear, cosine"
    )
    settings.add_argument(
        "--cfg-interval", type=float, nargs=2, metavar=("A", "B"), help="share of the codes that are guided"
    )
    settings.add_argument("--temperature", type=float, metavar="T", help="divides the logits")
    settings.add_argument(
        "--top-k",
        type=_top_k,
        metavar="K",
        help=f"draw from the K most likely codes, or from {ALL_CODES}",
    )
    settings.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest share P; 1: all")
    settings.add_argument(
        "--greedy", action=argparse.BooleanOptionalAction, help="always take the most likely code"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="codes per picture: refused unless it is what was trained, which is the default",
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut prompts that are too long, else an error"
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="a picture depends on seed, prompt and number alone to the last bit, in bfloat16 too; draws 16 at once "
        "whatever --batch-size says, and is slower where they are few",
    )
    add_batch_size(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, as saved on a GPU")
    add_device(parser)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn.

    Args:
        stated: fields of `Sampling` that stand in the place of the generator's own.
        batch_size: pictures drawn at once by each process, at least 1.
        tokens: codes of a picture; anything but what was trained is refused.
        truncate: cut prompts that are too long.
        deterministic: batches of `batches.fixed` composition; `batch_size` then changes nothing.
        dtype: a name of `DTYPES`; None: float32 on a CPU, as saved on a GPU.
        device: `auto`, or what torch calls it.
    """

    seed: int = 0
    stated: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    tokens: int | None = None
    truncate: bool = False
    deterministic: bool = False
    dtype: str | None = None
    device: str = "auto"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From the values of `add_arguments`.

        Raises:
            UserError: a setting out of range.
        """
        from generation.sampling import Sampling

        stated = {name: given[name] for name in SAMPLING if given[name] is not None}
        if "cfg_interval" in stated:
            stated["cfg_interval"] = tuple(stated["cfg_interval"])
        if stated.get("top_k") == ALL_CODES:
            stated["top_k"] = None
        try:
            Sampling(**stated)
            check_seed(given["seed"])
        except ValueError as error:
            raise option_error(error) from error
        names = ("seed", "batch_size", "tokens", "truncate", "deterministic", "dtype", "device")
        return cls(stated=stated, **{name: given[name] for name in names})

    def sampling(self, own: Sampling) -> Sampling:
        """The generator's `own` settings, with those that are stated in their place."""
        return replace(own, **self.stated)


def check_seed(seed: int) -> None:
    """Raises `ValueError` for what no seed is written as."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed: expected 0 to {LARGEST_SEED}, found {seed}")


def option_error(error: ValueError) -> UserError:
    """A setting's `top_k: expected ...` as the command line names it: `--top-k: expected ...`."""
    name, colon, rest = str(error).partition(":")
    return UserError(f"--{name.replace('_', '-')}{colon}{rest}")


def _top_k(text: str) -> int | str:
    try:
        return text if text == ALL_CODES else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or {ALL_CODES}, found {text!r}") from None
