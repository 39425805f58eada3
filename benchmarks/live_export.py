"""Exports of a run while it goes on, by another process: are they whole, are they right, does the run notice?

    python -m benchmarks.live_export --output runs/benchmarks/live_export

A small tokenizer trains and saves every second step, keeping one checkpoint and the best, while `vqrae export` is
called over and over, for the newest checkpoint and for the best. Then the same run trains undisturbed and keeps every
checkpoint: each export must be, byte for byte, that of the same step there, and so must the model at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.forked_runs import ROOT, ForkServer
from common.command import described_parser
from common.config import load_config
from common.errors import UserError, run_cli
from vqrae.cli import dispatch

RECIPE = ROOT / "tokenizer" / "recipes" / "demo_stage1.yaml"
PICTURES, STEPS, EVALUATED = 48, 60, 4


def train(output: str, pictures: str, keep: int) -> None:
    """The run, in a process of its own."""
    from tokenizer.config import TokenizerConfig
    from tokenizer.train import train

    overrides = [
        f"output={output}",
        f"data.sources=[{{kind: folder, path: {pictures}}}]",
        f"evaluation.images={pictures}",
        "evaluation.limit=16",
        "model.encoder.source=null",
        "model.codebook_size=128",
        "model.codebook_start.images=32",
        "ema=true",
        f"steps={STEPS}",
        f"checkpoint={{save_every: 2, keep: {keep}, best: perplexity}}",
        f"logging={{log_every: 10, picture_every: 1000, evaluate_every: {EVALUATED}, writers: []}}",
    ]
    train(load_config(TokenizerConfig, RECIPE, overrides))


def main() -> None:
    parser = described_parser(__doc__, prog="python -m benchmarks.live_export")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    output: Path = parser.parse_args().output
    if output.exists():
        raise UserError(f"{output}: is there already; remove it")
    pictures = write_pictures(output / "pictures")
    live, calm = output / "live", output / "calm"
    with ForkServer(["tokenizer.train", "tokenizer.held_out", "deepspeed"]) as server:
        given: dict[str, Any] = {"pictures": str(pictures)}
        run = server.start(
            "benchmarks.live_export:train", 1, output / "live_log", {**given, "output": str(live), "keep": 1}
        )
        exports = export_while(run, live, output / "exports")
        assert run.wait(600) == [0], run.said(0)
        again = server.start(
            "benchmarks.live_export:train",
            1,
            output / "calm_log",
            {**given, "output": str(calm), "keep": STEPS},
        )
        assert again.wait(600) == [0], again.said(0)
    report(exports, live, calm, output)


def export_while(run: Any, folder: Path, to: Path) -> list[dict[str, Any]]:
    """One export after the other until the run ends."""
    exports: list[dict[str, Any]] = []
    while run.processes[0].is_alive():
        if not (folder / "checkpoints" / ("best" if len(exports) % 2 else "latest")).is_file():
            time.sleep(0.05)
            continue
        out, said, started = to / str(len(exports)), io.StringIO(), time.monotonic()
        which = ["--best"] if len(exports) % 2 else []
        with contextlib.redirect_stdout(said):
            dispatch(["export", str(folder), *which, "--out", str(out)])
        text = said.getvalue()
        exports.append(
            {
                "folder": out,
                "best": bool(which),
                "step": int(text.split("the model of step ")[1].split(",")[0]),
                "again": text.count("once more"),
                "seconds": time.monotonic() - started,
            }
        )
    return exports


def report(exports: list[dict[str, Any]], live: Path, calm: Path, output: Path) -> None:
    equal = 0
    for export in exports:
        reference = output / "reference" / str(export["step"])
        if not reference.is_dir():
            with contextlib.redirect_stdout(io.StringIO()):
                dispatch(["export", str(calm), "--step", str(export["step"]), "--out", str(reference)])
        equal += contents(export["folder"]) == contents(reference)
        shutil.rmtree(export["folder"])
    best = json.loads((live / "checkpoints" / "best").read_text())
    lines = map(json.loads, (live / "metrics.jsonl").read_text().splitlines())
    scores = {line["step"]: line["perplexity"] for line in lines if line.get("kind") == "evaluation"}
    highest = max(scores, key=scores.__getitem__)
    kept = sorted(path.name for path in (live / "checkpoints").glob("step_*"))
    seconds = sorted(export["seconds"] for export in exports)[len(exports) // 2]
    same = contents(live / "model") == contents(calm / "model")
    rows = {
        "exports while the run went on, of them of the best": f"{len(exports)}, {sum(e['best'] for e in exports)}",
        "of different steps": f"{len({e['step'] for e in exports})} of {STEPS // 2} saved",
        "begun anew, since the run had removed what was read": sum(e["again"] for e in exports),
        "equal to the undisturbed run's of the same step, byte for byte": f"{equal} of {len(exports)}",
        "the run's own model is the undisturbed one's": "yes" if same else "no",
        "median seconds an export": f"{seconds:.2f}",
        "checkpoints that stayed: the newest one, and the best": ", ".join(kept),
        "best by `checkpoints/best`, and by the evaluations": f"{best['checkpoint']}, step {highest}",
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_pictures(folder: Path) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BILINEAR).save(folder / f"{number:03d}.png")
    return folder


if __name__ == "__main__":
    run_cli(main)
