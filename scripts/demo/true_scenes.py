"""True scenes as the tokenizer reconstructs them, laid out as GenEval's pictures: what the tokenizer itself loses.

    python -m scripts.demo.true_scenes --demo runs/demo

Each held-out scene stands once for each prompt that is true of it. No generator can be expected to score higher on
pictures that pass through the same codes.
"""

from __future__ import annotations

from pathlib import Path

from common.data.images import to_float, to_pil, to_uint8
from common.errors import run_cli
from common.models.vqrae_loading import load_vqrae
from evals.geneval.prompts import Prompt, write_metadata
from scripts.demo.captions import captions
from scripts.demo.command import demo_parser
from scripts.demo.world import read_world
from tokenizer.inference import reconstruct

SCENES = 300


def main() -> None:
    demo: Path = demo_parser(__doc__).parse_args().demo
    world = read_world(demo / "world", "val")
    model = load_vqrae(str(demo / "tokenizer_stage2" / "model"))[0].eval()
    rebuilt = to_uint8(reconstruct(model, to_float(world.images[:SCENES]))[0])
    shown = [
        (metadata, pixels)
        for scene, pixels in zip(world.scenes, rebuilt, strict=False)
        for metadata in captions(scene)
    ]
    folder = demo / "reconstructed_scenes"
    write_metadata(folder, [Prompt(number, metadata) for number, (metadata, _) in enumerate(shown)])
    for number, (_, pixels) in enumerate(shown):
        place = folder / f"{number:05d}" / "samples"
        place.mkdir(exist_ok=True)
        to_pil(pixels).save(place / "0000.png")
    print(f"{folder}: {len(shown)} pictures of {min(SCENES, len(world.scenes))} scenes")


if __name__ == "__main__":
    run_cli(main)
