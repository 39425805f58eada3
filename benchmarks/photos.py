"""What the codes cost on photographs: the same autoencoder with and without its quantizer.

    python -m benchmarks.photos --photos DIR [--output OUT]     DIR holds train/ and val/

No pretrained encoder is at hand, so one is trained first, as a continuous autoencoder on the same photographs, and
stays frozen from then on. The two arms then share trainer, encoder, steps, pictures and seed; one passes the
projected features by the codebook. Measures the held-out photographs (shorter edge resized, centre crop): PSNR and
SSIM of both, the gap, and how the codebook is used. A stopped call is resumed. Writes results.json and grid.png
(original, without quantizer, with codes).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, recipe_parser, report
from common.errors import UserError, run_cli
from common.files import write_png
from common.training.records import read_records

RECIPE = ROOT / "benchmarks" / "photos.yaml"
TOWER = ["model.quantize=false", "model.freeze_encoder=false", "model.encoder.source=null"]
ARMS = {"continuous": ["model.quantize=false"], "codes": []}
SHOWN = 8


def main() -> None:
    parser = recipe_parser(__doc__, RECIPE, "folder with train/ and val/")
    options = parser.parse_args()
    for split in ("train", "val"):
        if not (options.photos / split).is_dir():
            raise UserError(f"{options.photos / split}: --photos: no such folder")
    train(options.photos, options.output, options.overrides)
    score(options.photos, options.output)


def train(photos: Path, output: Path, overrides: list[str]) -> None:
    """The encoder, then both arms on it side by side, one thread each.

    Raises:
        UserError: a run failed; names its log.
    """
    from common.models.vqrae_loading import load_vqrae

    shared = [f"data.sources.0.path={photos / 'train'}", f"evaluation.images={photos / 'val'}", *overrides]
    encoder = output / "encoder"
    run_all(output, {"tower": [*shared, *TOWER]}, threads=2)
    load_vqrae(str(output / "tower" / "model"))[0].encoder.save_pretrained(encoder)
    arms = {arm: [*shared, f"model.encoder.source={encoder}", *changes] for arm, changes in ARMS.items()}
    run_all(output, arms, threads=1)


def run_all(output: Path, runs: dict[str, list[str]], threads: int) -> None:
    """Train runs of the recipe at the same time, each with its overrides."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tokenizer" / "train.py"), "--config", str(RECIPE)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, overrides in runs.items():
            print(f"training {name}; progress in {output / name}.log", flush=True)
            with (output / f"{name}.log").open("w") as log:
                arguments = [*command, f"output={output / name}", *overrides]
                running[name] = subprocess.Popen(arguments, stdout=log, stderr=log, env=environment)
        for name, process in running.items():
            if process.wait():
                raise UserError(f"{output / name}.log: training failed with exit code {process.returncode}")
    finally:
        for process in running.values():
            process.terminate()


def minutes(run: Path, images_per_step: int) -> float:
    """Training time of a run, from its own records, so that it survives a resume."""
    seconds, before = 0.0, 0
    for record in read_records(run, "train"):
        seconds += (record["step"] - before) * images_per_step / record["images_per_second"]
        before = record["step"]
    return round(seconds / 60, 2)


def score(photos: Path, output: Path) -> None:
    """Score both models and write what they reached."""
    import torch

    from common.config import load_config
    from common.data.evaluation import evaluation_loader
    from common.data.images import to_float, to_pil
    from common.metrics.reconstruction import ReconstructionMetrics
    from common.models.vqrae_loading import load_vqrae
    from common.sheets import contact_sheet
    from tokenizer.config import TokenizerConfig

    config = load_config(TokenizerConfig, output / "codes" / "config.yaml")
    scores: dict[str, dict[str, Any]] = {}
    rows: dict[str, torch.Tensor] = {}
    for arm in ARMS:
        model = load_vqrae(str(output / arm / "model"))[0].eval()
        metrics = ReconstructionMetrics(config.model.codebook_size)
        for batch in evaluation_loader(photos / "val", config.data.image_size, 10):
            pixels = to_float(batch["pixels"])
            with torch.inference_mode():
                result = model(pixels, quantize=arm == "codes")
            metrics.update(pixels, result.reconstruction, result.codes)
            if arm not in rows:
                rows.setdefault("original", pixels[:SHOWN])
                rows[arm] = result.reconstruction[:SHOWN].clamp(0, 1)
        scores[arm] = dict(metrics.compute())
    tower = config.model.encoder.architecture
    result = {
        "gap_db": scores["continuous"]["psnr"] - scores["codes"]["psnr"],
        "scores": scores,
        "codebook": [config.model.codebook_size, config.model.codebook_dim],
        "steps": config.steps,
        "minutes": {run: minutes(output / run, config.batch.global_size) for run in ("tower", *ARMS)},
        "encoder": f"SigLIP-shaped, {tower['num_hidden_layers']} layers of {tower['hidden_size']}, "
        f"patch {tower['patch_size']} at {tower['image_size']} px, trained as a continuous autoencoder on the same "
        "photographs, then frozen",
    }
    shown = [(name, [to_pil(picture) for picture in pictures]) for name, pictures in rows.items()]
    write_png(output / "grid.png", contact_sheet(shown))
    columns = {"usage": "usage", "perplexity": "perplexity", "tokens_per_code": "tokens per code"}
    table = []
    for arm, found in scores.items():
        use = [f"{found[key]:.4g}" if key in found else "-" for key in columns]
        table.append([arm, f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", *use])
    title = f"{scores['codes']['images']} held-out photographs, gap {result['gap_db']:.2f} dB"
    report(output, result, title, ("", "PSNR, dB", "SSIM", *columns.values()), table)


if __name__ == "__main__":
    run_cli(main)
