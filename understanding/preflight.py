"""Looks through the data of a recipe before it is trained on: what there is, and what would be left out.

    python understanding/preflight.py --config understanding/recipes/vicuna_7b_256_sft.yaml

It needs the annotations, the images and the text tokenizer, and no weights. Its index is the one that training uses.
How many images a core decodes in a second is held against what the GPUs will ask for. The list of samples that would
be left out goes to `preflight.txt` in the run's folder. Exits with 2 if they are more than `data.max_skipped_share`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import run_cli

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from common.preflight.demand import Demand
    from understanding.config import ConversationSource, UnderstandingConfig
    from understanding.conversation import BadSample, Encoded
    from understanding.dataset import ConversationDataset

COUNTED = 256  # conversations whose operations are counted
THREADS = 16  # opening files waits for the disk more than for a core


def main(argv: Sequence[str] | None = None) -> None:
    from common.preflight.command import parser as shared

    parser = shared(__doc__, samples="images whose decoding is timed")
    parser.add_argument(
        "--decode", action="store_true", help="decode every image, which takes longer than reading its header"
    )
    arguments = parser.parse_intermixed_args(argv)

    from common.config import load_config
    from understanding.config import UnderstandingConfig
    from understanding.text_tokenizer import load_text_tokenizer

    config = load_config(UnderstandingConfig, arguments.config, arguments.overrides)
    language_model = config.model.language_model
    text_tokenizer = load_text_tokenizer(
        language_model.source, config.model.template, language_model.pad_token
    )
    check(config, text_tokenizer, arguments)


def check(
    config: UnderstandingConfig, text_tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace
) -> None:
    """Print the report and write the list.

    Raises:
        UserError: the data cannot be read at all, or too much of it would be left out.
    """
    from common.preflight.command import Verdict
    from common.training.plan import planned_ranks
    from understanding.dataset import open_conversations

    gpus = planned_ranks(options.gpus)

    held_out = config.evaluation.source
    parts: list[tuple[str, tuple[ConversationSource, ...], int | None]] = [
        ("training", config.data.sources, None)
    ]
    if held_out is not None:
        parts.append(("held out", (held_out,), config.evaluation.limit))
    verdict = Verdict()
    pixels = partial(resized, int(config.model.tower.architecture["image_size"]))
    for title, sources, limit in parts:
        dataset = open_conversations(config, sources, text_tokenizer, pixels, limit)
        problems = {**dict(dataset.problems()), **image_problems(dataset, options.decode)}
        print(report(title, dataset, problems, config, text_tokenizer), flush=True)
        verdict.listed += [dataset.describe(index, problem) for index, problem in sorted(problems.items())]
        if len(problems) > config.data.max_skipped_share * len(dataset):
            verdict.refused.append(
                f"{len(problems)} of {len(dataset)} {title} samples would be left out, more than "
                f"data.max_skipped_share allows ({config.data.max_skipped_share})"
            )
        if title == "training":
            speed = decoding_speed(dataset, options.samples, config.seed)
            asked = demand(config, dataset, options, gpus)
            print("\n".join(asked.lines(speed, config.data.workers) if asked else ()), flush=True)
    verdict.close(Path(config.output) / "preflight.txt")


def image_problems(dataset: ConversationDataset, decode: bool) -> dict[int, BadSample]:
    """The samples with an image that is missing or cannot be read, by index; from headers, or by decoding all."""
    from tqdm import tqdm

    from understanding.conversation import BadSample, last_net
    from understanding.skipped import check_header, open_listed

    def look(index: int) -> tuple[int, BadSample | None]:
        try:
            with last_net():
                for picture in dataset.pictures(index, dataset.conversation(index)):
                    if decode:
                        open_listed(picture)
                    else:
                        check_header(picture)
        except BadSample as problem:
            return index, problem
        return index, None

    wanted = dataset.with_images()
    found: dict[int, BadSample] = {}
    with (
        ThreadPoolExecutor(THREADS) as threads,
        tqdm(total=len(wanted), unit="sample", desc="images", disable=None) as bar,
    ):
        for start in range(0, len(wanted), 4096):  # else a million waiting results would fill memory
            for index, problem in threads.map(look, wanted[start : start + 4096]):
                if problem is not None:
                    found[index] = problem
                bar.update()
    return found


def decoding_speed(dataset: ConversationDataset, samples: int | None, seed: int) -> float | None:
    """Images that one core opens in a second, by a sample of those that can be; None where there are none."""
    import time

    from common.preflight.looking import spread
    from understanding.conversation import BadSample

    wanted = dataset.with_images()
    seconds, images = 0.0, 0
    for place in spread(len(wanted), samples, seed):
        start = time.thread_time()
        try:
            images += len(dataset.read(wanted[place]).pixel_values)
        except BadSample:
            continue
        seconds += time.thread_time() - start
    return images / seconds if images else None


def demand(
    config: UnderstandingConfig, dataset: ConversationDataset, options: argparse.Namespace, gpus: int
) -> Demand | None:
    """What GPUs ask for, by the lengths of a sample of the conversations; None where they have no images."""
    import torch

    from common.preflight.demand import Demand
    from common.preflight.looking import spread
    from understanding.efficiency import UnderstandingEfficiency

    efficiency = UnderstandingEfficiency(config.model, torch.device("cpu"))
    usable = np.flatnonzero(dataset.usable)
    flops, images = 0.0, 0
    for place in spread(len(usable), COUNTED, config.seed):
        index = usable[place]
        row = torch.ones(1, int(dataset.lengths[index]), dtype=torch.int64)
        learned = torch.empty(int(dataset.learned[index]))
        counted = efficiency.count(
            {
                "input_ids": row,
                "attention_mask": row,
                "position_ids": None,
                "predictors": learned,
                "targets": learned,
                "pixel_values": torch.empty(int(dataset.images[index])),
                "skipped": [],
                "samples": 1,
                "indices": [],
            }
        )
        flops, images = flops + counted["flops"], images + int(dataset.images[index])
    return Demand(flops / images, options.gpu, gpus, options.mfu) if images else None


def report(
    title: str,
    dataset: ConversationDataset,
    problems: dict[int, BadSample],
    config: UnderstandingConfig,
    text_tokenizer: PreTrainedTokenizerFast,
) -> str:
    """A page of text."""
    from understanding.beginnings import account_lines

    used = dataset.usable.copy()
    used[list(problems)] = False
    share = f"{len(problems) / len(dataset):.2%}, at most {config.data.max_skipped_share:.2%}"
    lines = [
        f"{title:<17}{', '.join(source.annotations for source in dataset.sources)}",
        f"samples          {len(dataset):,}, of which {int(used.sum()):,} can be used",
        f"skipped          {len(problems):,} ({share})",
    ]
    reasons = Counter(problem.reason for problem in problems.values())
    lines += [f"  {count:>12,}   {reason}" for reason, count in reasons.most_common()]
    lines += [f"source           {line}" for line in account_lines(dataset)]
    if not used.any():
        return "\n".join(lines)
    lengths = dataset.lengths[used]
    middle, most, longest = (int(value) for value in np.percentile(lengths, [50, 95, 100]))
    cut = int((lengths >= config.data.max_length).sum())
    lines += [
        f"images           {int(dataset.images[used].sum()):,}, in {int((dataset.images[used] > 0).sum()):,} samples; "
        f"{config.model.image_tokens} tokens each",
        f"tokens           {int(lengths.sum()):,}, of which {int(dataset.learned[used].sum()):,} are learned",
        f"length           median {middle}, 95% up to {most}, longest {longest}; {cut:,} fill data.max_length, "
        f"{config.data.max_length}",
    ]
    first = int(np.flatnonzero(used)[0])
    lines += [f"example          {dataset.name(first)}; what is learned stands between ⟦ and ⟧:"]
    lines += [f"  {line}" for line in marked(dataset.encode(first), text_tokenizer).splitlines()]
    return "\n".join(lines)


def marked(encoded: Encoded, text_tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of a sample, the learned part between marks, image tokens counted."""
    from understanding.conversation import IMAGE_TOKEN

    ids, learned = encoded.ids, encoded.learned
    image = ids == text_tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    changes = np.flatnonzero((np.diff(learned) != 0) | (np.diff(image) != 0)) + 1
    text = ""
    for start, end in zip([0, *changes], [*changes, len(ids)], strict=True):
        if image[start]:
            text += f"{IMAGE_TOKEN} x {end - start}"
            continue
        # What a run adds to the text before it: decoded alone, it would lose its first blank.
        before, after = (text_tokenizer.decode(ids[:place]) for place in (start, end))
        piece = after[len(before) :]
        text += f"⟦{piece}⟧" if learned[start] else piece
    return text


def resized(size: int, image: Image) -> Tensor:
    """float32 (3, S, S): as much work as what a model's processor does, which would need the tower."""
    import torch
    from PIL.Image import Resampling

    from common.data.images import to_float

    square = np.array(image.resize((size, size), Resampling.BICUBIC))
    return to_float(torch.from_numpy(square).permute(2, 0, 1))


if __name__ == "__main__":
    run_cli(main)
