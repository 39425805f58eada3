"""Write a miniature world to a folder, in the formats that real data uses.

python -m scripts.demo.make_world --out runs/demo/world

train/000000.png ...     images, as is `val/`
captions.jsonl           {"image", "caption", "tag", "description"} for each training image
scenes.jsonl             exact ground truth: objects, boxes, background, and every true caption
descriptions.json        the descriptions again, as LLaVA's pretraining takes captions; of the first images only
questions.json           LLaVA conversations about the same images
val_captions.jsonl, val_scenes.jsonl ...      the same for `val/`
shards/000000.tar ...    the training images as WebDataset shards: NAME.png and NAME.json
prompts.jsonl            GenEval metadata; no training caption and no reward prompt repeats one of these prompts
reward_prompts.jsonl     the same of all other prompts there are: what post-training draws
tuning_prompts.jsonl     GenEval metadata of some of these, in like numbers of each tag: for `vqrae tune-sampling`
contact_sheet.png        a few training images with their captions
world.json               how it was made
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.command import a_seed, described_parser, positive, whole_number
from common.data.images import read_image
from common.errors import UserError, run_cli
from common.sheets import captioned_sheet
from evals.geneval.rules import Metadata
from scripts.demo.captions import (
    captions,
    choose_caption,
    describe,
    held_out,
    reward_prompts,
    training_prompts,
)
from scripts.demo.questions import conversations
from scripts.demo.scenes import SPLITS, Scene, make_scene, render

SHARD_LENGTH = 1000  # images in a shard
ROUNDS = 6  # of questions about a training image: a picture costs more tokens than several answers about it
SHOWN = 30  # images on the contact sheet
TURNS = 10  # of a training conversation at most, so that few are much longer than others


def annotate(index: int, *, seed: int, split: str, size: int) -> tuple[Scene, dict[str, Any]]:
    """Scene `index` with what is written about it: a pure function of its arguments.

    The record is the ground truth with `caption`, `tag` (one of GenEval's six, or `description`), `description`,
    `text`, which is one or the other by turns, and `captions`, all true GenEval captions as {"tag", "caption"}.
    Training captions leave out held-out prompts; a scene without any other is captioned by its description.
    """
    scene = make_scene(index, seed=seed, split=split, size=size)
    rng = np.random.default_rng([seed, SPLITS[split], index, 1])
    barred = {metadata["prompt"] for metadata in held_out(seed)} if split == "train" else set()
    true: list[Metadata] = [metadata for metadata in captions(scene) if metadata["prompt"] not in barred]
    description = describe(scene, rng)
    chosen = choose_caption(true, rng) or {"tag": "description", "prompt": description}
    record = {
        "caption": chosen["prompt"],
        "tag": chosen["tag"],
        "description": description,
        "text": description if index % 2 else chosen["prompt"],
        "captions": [{"tag": metadata["tag"], "caption": metadata["prompt"]} for metadata in true],
        **scene.as_dict(),
    }
    return scene, record


def write_image(index: int, *, out: Path, seed: int, split: str, size: int) -> dict[str, Any]:
    """Write the picture of scene `index`; its record, with its `image`."""
    scene, record = annotate(index, seed=seed, split=split, size=size)
    record = {"image": f"{split}/{index:06d}.png", **record}
    Image.fromarray(render(scene)).save(out / record["image"], compress_level=1)
    return record


def write_split(
    out: Path, split: str, count: int, questioned: int, *, seed: int, size: int
) -> list[dict[str, Any]]:
    """Write a split's images, captions and ground truth, and questions about the first `questioned` of them; the
    records, each with its `image`."""
    (out / split).mkdir()
    job = partial(write_image, out=out, seed=seed, split=split, size=size)
    with ProcessPoolExecutor() as pool:
        made = pool.map(job, range(count), chunksize=100)
        records = list(tqdm(made, total=count, desc=f"scenes, {split}", unit="scene"))
    prefix = "" if split == "train" else f"{split}_"
    keys = ("image", "caption", "tag", "description")
    write_jsonl(out / f"{prefix}captions.jsonl", ({key: record[key] for key in keys} for record in records))
    write_jsonl(out / f"{prefix}scenes.jsonl", records)
    asked = records[:questioned]
    described = [_described(record["image"], record["description"]) for record in asked]
    (out / f"{prefix}descriptions.json").write_text(json.dumps(described))
    more = {"rounds": ROUNDS, "turns": TURNS} if split == "train" else {}
    scenes = [Scene.from_dict(record) for record in asked]
    talk = conversations([record["image"] for record in asked], scenes, seed=seed, **more)
    (out / f"{prefix}questions.json").write_text(json.dumps(talk))
    return records


def _described(image: str, description: str) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "Describe the picture.\n<image>"},
        {"from": "gpt", "value": description},
    ]
    return {"id": image.removesuffix(".png"), "image": image, "conversations": turns}


def write_jsonl(path: Path, records: Any) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_shards(out: Path, records: list[dict[str, Any]]) -> None:
    """The images again as WebDataset shards; a sample's JSON is its whole record."""
    (out / "shards").mkdir()
    starts = range(0, len(records), SHARD_LENGTH)
    for number, start in enumerate(tqdm(starts, desc="shards", unit="shard")):
        with tarfile.open(out / "shards" / f"{number:06d}.tar", "w") as shard:
            for record in records[start : start + SHARD_LENGTH]:
                name = Path(record["image"]).stem
                for suffix, content in (
                    ("png", (out / record["image"]).read_bytes()),
                    ("json", json.dumps(record).encode()),
                ):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))


def write_contact_sheet(out: Path, records: Sequence[dict[str, Any]]) -> None:
    """The first images, each above its caption."""
    captioned = [(read_image(out / record["image"]), record["caption"]) for record in records[:SHOWN]]
    captioned_sheet(captioned).save(out / "contact_sheet.png")


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or absent")
    parser.add_argument("--scenes", type=positive, default=30_000, help="training scenes (default 30000)")
    parser.add_argument(
        "--questioned", type=positive, default=15_000, help="so many of them have questions (default 15000)"
    )
    parser.add_argument("--held-out", type=positive, default=500, help="validation scenes (default 500)")
    parser.add_argument("--seed", type=a_seed, default=0, help="the world's seed (default 0)")
    parser.add_argument(
        "--size", type=whole_number(32, 64), default=32, help="side of an image in px, 32 to 64 (default 32)"
    )
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        raise UserError(f"--out: {options.out} is not empty")
    options.out.mkdir(parents=True, exist_ok=True)
    same = {"seed": options.seed, "size": options.size}
    records = write_split(options.out, "train", options.scenes, options.questioned, **same)
    write_split(options.out, "val", options.held_out, options.held_out, **same)
    write_shards(options.out, records)
    write_jsonl(options.out / "prompts.jsonl", held_out(options.seed))
    write_jsonl(options.out / "reward_prompts.jsonl", reward_prompts(options.seed))
    write_jsonl(options.out / "tuning_prompts.jsonl", training_prompts(options.seed))
    write_contact_sheet(options.out, records)
    made = {**same, "train": options.scenes, "val": options.held_out}
    (options.out / "world.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    run_cli(main)
