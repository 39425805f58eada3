"""How fast pictures are drawn: our sampler against Hugging Face `generate`, on the same weights.

    python -m benchmarks.generate [--steps N] [--output OUT]

Random weights of a Qwen3 of 512 x 12 (on a GPU: of Qwen3-0.6B's shape, bfloat16, several batch sizes), Qwen3's text
vocabulary and 16,384 codes, 1024 codes a picture, every picture guided, so two rows each. All arms are greedy, which is
the cheapest for `generate`, under the same code mask; ours is timed with random draws too.

    ours           `generation.sampler.Sampler`
    doubled        `generate`, dynamic cache, conditional and unconditional rows in one batch
    unbatched      `generate`, dynamic cache, `UnbatchedClassifierFreeGuidanceLogitsProcessor`

Each arm runs in a process of its own, so that its peak memory is its own; repeats alternate between the arms and the
best counts. The floor is the time to read once what a step must read (layers, the head's codes, all keys and values so
far) at the bandwidth that a plain reduction reaches here, in the same run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import bandwidth, device_name, in_own_process, report
from common.command import described_parser
from common.errors import UserError, run_cli

TEXT_VOCABULARY = 151_669  # Qwen3's
ARMS = ("ours", "ours, random draws", "doubled", "unbatched")
WARM_UP = 8  # codes drawn before the clock starts
HEADINGS = (
    "arm",
    "pictures",
    "ms per step",
    "pictures/s",
    "peak MB over the model",
    "ours is faster",
    "equal codes",
)


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1024, help="codes per picture (default: 1024)")
    parser.add_argument("--images", type=int, nargs="+", help="pictures at once (default: 4; GPU: 1 4 16 64)")
    parser.add_argument("--repeats", type=int, default=2, help="default: 2")
    parser.add_argument("--text-vocabulary", type=int, default=TEXT_VOCABULARY, help="default: Qwen3's")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks/generate"), help="default: %(default)s"
    )
    options = parser.parse_args()
    if options.steps <= WARM_UP or options.repeats < 1:
        raise UserError(f"--steps, --repeats: expected more than {WARM_UP}, and 1 or more")

    import torch

    images = options.images or ([1, 4, 16, 64] if torch.cuda.is_available() else [4])
    rate, device = bandwidth(), device_name()
    batches: list[dict[str, Any]] = []
    for count in images:
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for repeat in range(options.repeats):
            for arm in ARMS:
                print(
                    f"{count} pictures, {arm}, {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True
                )
                words = ("--arm", arm, "--images", count, "--steps", options.steps)
                vocabulary = ("--text-vocabulary", options.text_vocabulary)
                found[arm].append(in_own_process("benchmarks.generate_arm", *words, *vocabulary))
        best = {arm: min(runs, key=lambda run: run["ms_per_step"]) for arm, runs in found.items()}
        batches.append(summary(count, best, rate))
    report(
        options.output,
        {"bandwidth_gb_s": rate, "device": device, "batches": batches, "steps": options.steps},
        f"{device}, {options.steps} codes, guided; memory read at {rate:.1f} GB/s",
        HEADINGS,
        [row for batch in batches for row in rows(batch)],
    )


def summary(images: int, arms: dict[str, dict[str, Any]], rate: float) -> dict[str, Any]:
    """Times, ratios and the floor of one batch size."""
    ours = arms["ours"]
    floor = ours["bytes_per_step"] / rate / 1e6
    agree = {
        arm: sum(
            a == b
            for x, y in zip(ours["codes"], run["codes"], strict=True)
            for a, b in zip(x, y, strict=True)
        )
        / sum(map(len, ours["codes"]))
        for arm, run in arms.items()
        if arm in ("doubled", "unbatched")
    }
    return {
        "images": images,
        "arms": {
            arm: {key: run[key] for key in ("ms_per_step", "images_per_second", "memory_mb")}
            for arm, run in arms.items()
        },
        "times_faster": {arm: arms[arm]["ms_per_step"] / ours["ms_per_step"] for arm in agree},
        "equal_codes": agree,
        "floor_ms_per_step": floor,
        "share_of_floor": floor / ours["ms_per_step"],
    }


def rows(batch: dict[str, Any]) -> list[list[str]]:
    """Of the table: the arms of one batch size, and the floor."""
    shown = []
    for arm, run in batch["arms"].items():
        faster, equal = batch["times_faster"].get(arm), batch["equal_codes"].get(arm)
        shown.append(
            [
                arm,
                str(batch["images"]),
                f"{run['ms_per_step']:.2f}",
                f"{run['images_per_second']:.4f}",
                f"{run['memory_mb']:.0f}",
                f"{faster:.2f} x" if faster else "",
                f"{equal:.1%}" if equal is not None else "",
            ]
        )
    floor = f"{batch['floor_ms_per_step']:.2f}"
    return [*shown, ["floor", "", floor, "", "", f"ours: {batch['share_of_floor']:.0%}"]]


if __name__ == "__main__":
    run_cli(main)
