"""Train a second judge of the miniature world, which is no reward: a detector that has learned from true scenes alone.

    python -m scripts.demo.held_out_judge --world runs/demo/world --out runs/demo/judge

Post-training raises what the exact detector sees. Whether pictures became better, or only better for this detector, is
asked of this one: it has seen no drawn picture, and finds objects in another way (evals/detectors/centers.py). The
folder is a detector for `bash evals/run_geneval.sh --detector`; judge.json in it says how often its verdict on
held-out true scenes is the truth, on the scenes as they are and worn (scripts/demo/worn_pictures.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from tqdm import tqdm

from common.command import a_seed, positive
from common.data.images import to_float, to_pil
from common.errors import run_cli
from evals.detectors.centers import STRIDE, Centers, CentersConfig, CentersDetector
from evals.detectors.world_shapes import COLORS, SHAPES
from scripts.demo.command import world_parser
from scripts.demo.judged_pairs import accuracy, pairs
from scripts.demo.learning import has_bfloat16, learn
from scripts.demo.scenes import Scene
from scripts.demo.world import World, read_world
from scripts.demo.worn_pictures import worn

STEPS, BATCH = 600, 64
RATE = 4e-3
# Of an object's size: cells so near to its centre are its middle; those up to the second are neither it nor not it.
MIDDLE, AROUND = 0.17, 0.4
RARE = 4.0  # weight of the middles, which are few among the cells
PER_CELL = 50.0  # cells that weigh as much as one middle's colour and box


def targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a detector should say of pictures.

    Returns:
        Heat (B, shapes, h, w): 1 in an object's middle, NaN around it, else 0. Of the M cells in middles: the places
        (M, 3) of picture, row, column; the colours (M,); the distances (M, 4) to the box's edges, in px.
    """
    cells = scenes[0].size // STRIDE
    heat = torch.zeros(len(scenes), len(SHAPES), cells, cells)
    middles = (torch.arange(cells) + 0.5) * STRIDE
    places, colors, edges = [], [], []
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            x, y = thing.center
            distance = torch.hypot(middles[None, :] - x, middles[:, None] - y)
            heat[number, :, distance < AROUND * thing.size] = torch.nan
        for thing in scene.things:
            x, y = thing.center
            x0, y0, x1, y1 = thing.box
            distance = torch.hypot(middles[None, :] - x, middles[:, None] - y)
            rows, columns = (distance < MIDDLE * thing.size).nonzero(as_tuple=True)
            heat[number, :, rows, columns] = 0
            heat[number, SHAPES.index(thing.shape), rows, columns] = 1
            places.append(torch.stack([torch.full_like(rows, number), rows, columns], 1))
            colors.append(torch.full_like(rows, COLORS.index(thing.color)))
            across, down = middles[columns], middles[rows]
            edges.append(torch.stack([across - x0, down - y0, x1 - across, y1 - down], 1))
    return heat, torch.cat(places), torch.cat(colors), torch.cat(edges)


def loss(model: Centers, pixels: Tensor, wanted: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Of heat, colour and box, summed; a number."""
    heat, places, colors, edges = wanted
    said_heat, said_colors, said_boxes = (part.float() for part in model(pixels))
    batch, rows, columns = places.T
    counted = ~heat.isnan()
    hot = binary_cross_entropy_with_logits(
        said_heat[counted], heat[counted], pos_weight=torch.tensor(RARE), reduction="mean"
    )
    named = cross_entropy(said_colors[batch, :, rows, columns], colors)
    framed = smooth_l1_loss(said_boxes[batch, :, rows, columns], edges)
    return PER_CELL * hot + named + framed


def train(world: World, steps: int, seed: int) -> Centers:
    """A detector of the world's pictures; the loss falls over `steps` batches, drawn with return."""
    torch.manual_seed(seed)
    model = Centers(CentersConfig()).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)

    def next_loss() -> Tensor:
        chosen = torch.randint(len(world.scenes), (BATCH,), generator=generator)
        pixels = worn(to_float(world.images[chosen]), generator)
        return loss(model, pixels, targets([world.scenes[i] for i in chosen.tolist()]))

    with tqdm(total=steps, desc="judge", unit="step") as progress:
        learn(model, optimizer, next_loss, steps, rate=RATE, bf16=has_bfloat16(), progress=progress)
    return model.eval()


def worn_pictures(images: Tensor, seed: int) -> list[Image.Image]:
    """(B, 3, S, S) uint8, worn."""
    return [to_pil(one) for one in worn(to_float(images), torch.Generator().manual_seed(seed))]


def main() -> None:
    parser = world_parser(__doc__, "folder for the judge")
    parser.add_argument("--steps", type=positive, default=STEPS, help="default: %(default)s")
    parser.add_argument("--seed", type=a_seed, default=0)
    options = parser.parse_args()
    world, held_out = (read_world(options.world, split) for split in ("train", "val"))
    start = time.perf_counter()
    train(world, options.steps, options.seed).save_pretrained(options.out)
    seconds = time.perf_counter() - start
    detector = CentersDetector.from_folder(options.out)
    asked = pairs(held_out.scenes, options.seed)
    result = {
        "accuracy": accuracy(detector, [to_pil(one) for one in held_out.images], asked),
        "accuracy_worn": accuracy(detector, worn_pictures(held_out.images, options.seed), asked),
        "pairs": len(asked),
        "steps": options.steps,
        "seed": options.seed,
        "seconds": round(seconds, 1),
    }
    Path(options.out / "judge.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    figures = ", ".join(f"{name} {value:.3f}" for name, value in result["accuracy"].items())
    print(
        f"judge: right on {len(asked)} pairs of held-out scene and prompt: {figures}; worn "
        f"{result['accuracy_worn']['overall']:.3f}; {seconds:.0f} s"
    )


if __name__ == "__main__":
    run_cli(main)
