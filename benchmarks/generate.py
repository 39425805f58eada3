"""How fast pictures are drawn: our sampler against Hugging Face `generate`, on the same weights.

    python benchmarks/generate.py [--steps N] [--output OUT]

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

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli

TEXT_VOCABULARY = 151_669  # Qwen3's
ARMS = ("ours", "ours, random draws", "doubled", "unbatched")
WARM_UP = 8  # codes drawn before the clock starts
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    results = {"bandwidth_gb_s": bandwidth(), "device": device_name(), "batches": [], "steps": options.steps}
    for count in images:
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for repeat in range(options.repeats):
            for arm in ARMS:
                print(
                    f"{count} pictures, {arm}, {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True
                )
                found[arm].append(in_own_process(arm, count, options))
        best = {arm: min(runs, key=lambda run: run["ms_per_step"]) for arm, runs in found.items()}
        results["batches"].append(summary(count, best, results["bandwidth_gb_s"]))
    report(results, options.output)


def in_own_process(arm: str, images: int, options: argparse.Namespace) -> dict[str, Any]:
    """Raises `UserError` if the arm failed."""
    words = ["--arm", arm, "--images", images, "--steps", options.steps]
    words += ["--text-vocabulary", options.text_vocabulary]
    command = [sys.executable, "-m", "benchmarks.generate_arm", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{arm}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def bandwidth() -> float:
    """GB/s at which a reduction reads memory far larger than any cache; the best of several."""
    import torch

    cuda = torch.cuda.is_available()
    block = torch.ones(1 << 28, device="cuda" if cuda else "cpu")  # 1 GB
    rates = []
    for _ in range(6):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        block.sum()
        if cuda:
            torch.cuda.synchronize()
        rates.append(block.numel() * block.element_size() / 1e9 / (time.perf_counter() - started))
    return max(rates)


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


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


def report(results: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from common.training.run import versions

    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**results, "versions": versions()}, indent=2)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")
    table = Table(title=f"{results['device']}, {results['steps']} codes, guided", title_justify="left")
    for column in (
        "pictures",
        "arm",
        "ms per step",
        "pictures/s",
        "peak MB over the model",
        "ours is faster",
        "equal codes",
    ):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for batch in results["batches"]:
        for arm, run in batch["arms"].items():
            faster, equal = batch["times_faster"].get(arm), batch["equal_codes"].get(arm)
            table.add_row(
                str(batch["images"]),
                arm,
                f"{run['ms_per_step']:.2f}",
                f"{run['images_per_second']:.4f}",
                f"{run['memory_mb']:.0f}",
                f"{faster:.2f} x" if faster else "",
                f"{equal:.1%}" if equal is not None else "",
            )
        table.add_row(
            "", "floor", f"{batch['floor_ms_per_step']:.2f}", "", "", f"ours: {batch['share_of_floor']:.0%}"
        )
    console = Console()
    console.print(table)
    console.print(f"memory read at {results['bandwidth_gb_s']:.1f} GB/s; {output / 'results.json'}")


if __name__ == "__main__":
    run_cli(main)
