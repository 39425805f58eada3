"""The preflight that the tokenizer and the generator share: its options, and how it goes through the sources."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import described_parser, positive
from common.errors import UserError
from common.training.peaks import PEAKS

if TYPE_CHECKING:
    from common.data.config import DataConfig
    from common.preflight.looking import Looked, Wanted

EVERYTHING = "all"


def parser(
    description: str | None, samples: str = "pictures to open of each source; held-out ones are all opened"
) -> argparse.ArgumentParser:
    """`--config FILE [key.path=value ...] [--samples N|all] [--gpu NAME] [--gpus N] [--mfu SHARE]`."""
    options = described_parser(description)
    options.add_argument("--config", type=Path, required=True, help="a recipe")
    options.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="fields of the recipe to change"
    )
    add_gpus(options)
    options.add_argument(
        "--samples",
        type=_samples,
        default=1000,
        metavar="N",
        help=f"{samples}; or `all` (default: 1000)",
    )
    return options


def add_gpus(options: argparse.ArgumentParser) -> None:
    """--gpu, --gpus, --mfu: what decoding is held against."""
    names = [name for name, _ in PEAKS]
    options.add_argument("--gpu", choices=names, default="H100", help="to train on (default: H100)")
    options.add_argument(
        "--gpus", type=positive, metavar="N", help="how many (default: the launcher's, or 8)"
    )
    options.add_argument(
        "--mfu",
        type=_share,
        default=0.4,
        metavar="SHARE",
        help="of a GPU's peak that training reaches (default: 0.4)",
    )


def _samples(text: str) -> int | None:
    if text == EVERYTHING:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, or {EVERYTHING}, found {text}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], found {text}")
    return share


@dataclass
class Verdict:
    """What was found, for the end: the lines of the list, and why a run would be refused."""

    listed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def close(self, path: Path) -> None:
        """Write the list.

        Raises:
            UserError: something is refused.
        """
        from common.files import write_text

        write_text(path, "".join(f"{line}\n" for line in self.listed))
        print(f"list             {path}, {len(self.listed)} lines")
        if self.refused:
            more = f" (and {len(self.refused) - 1} more, see above)" if len(self.refused) > 1 else ""
            raise UserError(f"{self.refused[0]}{more}; see {path}")


def look_at_sources(
    wanted: Sequence[Wanted],
    data: DataConfig,
    seed: int,
    verdict: Verdict,
    each_caption: Callable[[str, str], object] = lambda caption, where: None,
) -> float | None:
    """Open a sample of each source and print what it shows.

    Args:
        each_caption: called with every caption that is trained on, and its place.

    Returns:
        Pictures that one core decodes in a second, of the mixture that is trained on; None if none was decoded.
    """
    from tqdm import tqdm

    from common.data.accounts import check_captions
    from common.data.open import open_source
    from common.preflight.looking import Looked, look_through, planned
    from common.preflight.overlap import overlap_lines
    from common.preflight.page import source_lines

    opened = []
    for want in wanted:
        try:
            source = open_source(want.source, captions=want.captions)
            account = source.account()
            opened.append((want, source, account, planned(source, want.samples)))
            if want.captions:
                check_captions(want.source, account)
        except UserError as error:
            verdict.refused.append(f"{want.where}: {error}")
            print(f"{want.where:<16} {error}", flush=True)
    results: list[tuple[Wanted, Looked]] = []
    total = sum(count for *_, count in opened)
    with tqdm(total=total, unit="picture", desc="preflight", disable=None) as bar:
        for want, source, account, _ in opened:
            looked = Looked(want.where, source.name, account)
            each = (lambda caption, where: None) if want.held_out else each_caption
            look_through(looked, source, data, seed, want.samples, bar.update, each)
            results.append((want, looked))
    for want, looked in results:
        verdict.listed += looked.problems
        print("\n".join(source_lines(looked, data, want.captions)), flush=True)
        if want.held_out:
            _judge(looked.where, len(looked.problems), looked.tried, data, verdict)
    training = [(want.source.weight, looked) for want, looked in results if not want.held_out]
    _judge_mixture(training, data, verdict)
    for line in overlap_lines(results):
        print(line)
    return _mixed_speed(training)


def _judge(name: str, bad: float, tried: float, data: DataConfig, verdict: Verdict) -> None:
    if bad > data.max_corrupt_share * tried:
        verdict.refused.append(
            f"{name}: {bad / tried:.2%} of the pictures looked at cannot be read, more than data.max_corrupt_share "
            f"allows ({data.max_corrupt_share})"
        )


def _judge_mixture(training: Sequence[tuple[float, Looked]], data: DataConfig, verdict: Verdict) -> None:
    """The share that training will meet: of each source by its weight."""
    seen = [(weight, looked) for weight, looked in training if looked.tried]
    weights = sum(weight for weight, _ in seen)
    bad = sum(weight * len(looked.problems) / looked.tried for weight, looked in seen)
    if seen:
        _judge("data.sources", bad, weights, data, verdict)


def _mixed_speed(training: Sequence[tuple[float, Looked]]) -> float | None:
    """Of the mixture: the mean of seconds by weight, turned over."""
    seen = [(weight, looked.per_second) for weight, looked in training if looked.per_second is not None]
    seconds = sum(weight / per_second for weight, per_second in seen)
    return sum(weight for weight, _ in seen) / seconds if seconds else None
