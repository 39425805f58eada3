"""Encode a recipe's pictures once, before training.

    deepspeed generation/extract_codes.py --config generation/recipes/qwen3_0_6b.yaml
    python generation/extract_codes.py --config generation/recipes/demo.yaml

Every picture of `data.sources`, centre-cropped to `data.image_size`, is encoded by the VQRAE of `model.tokenizer` into
`data.codes`, from which the recipe then trains. Shards are shared out over all ranks of all nodes. A shard that stands
there is not made again, so a run that was stopped goes on with any number of ranks; codes of another VQRAE, crop or
source are refused. Pictures that cannot be read are left out, counted and named.
"""

from __future__ import annotations

import argparse
import dataclasses
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_cli

if TYPE_CHECKING:
    from common.data.sources import IndexedSource
    from generation.code_encoder import CodeEncoder
    from generation.codes import CodeFacts
    from generation.config import GenerationConfig, GenerationDataConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "qwen3_0_6b.yaml"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_RECIPE, help="a recipe (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="fields of the recipe to change"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at once (default: %(default)s)")
    parser.add_argument(
        "--shard-size",
        type=int,
        default=8192,
        help="pictures of a shard, a multiple of it (default: %(default)s)",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher appends it
    arguments = parser.parse_intermixed_args(argv)
    if arguments.batch_size < 1 or arguments.shard_size < 1 or arguments.shard_size % arguments.batch_size:
        raise UserError(
            f"--shard-size {arguments.shard_size}: expected a multiple of --batch-size {arguments.batch_size}"
        )

    from common.config import load_config
    from generation.config import GenerationConfig

    config = load_config(GenerationConfig, arguments.config, arguments.overrides)
    extract(config, arguments.batch_size, arguments.shard_size)


def extract(config: GenerationConfig, batch_size: int, shard_size: int) -> None:
    """All sources of the recipe, one after the other.

    Raises:
        UserError: a source can only be streamed or cannot be opened, what stands in `data.codes` is something else, or
            too many pictures cannot be read.
    """
    from common import dist
    from common.data.open import open_indexed
    from common.models.weight_files import state_sha256
    from generation.assemble import assemble_vqrae
    from generation.code_encoder import CodeEncoder
    from generation.codes import CodeFacts
    from generation.dataset import code_folder

    if config.data.codes is None:
        raise UserError("data.codes: expected a folder for the codes, found null")
    device = dist.start()
    vqrae = assemble_vqrae(config.model)
    sha256 = state_sha256(vqrae.state_dict())
    encoder = CodeEncoder(vqrae.to(device), config.model.tokenizer.precision)
    for number, stated in enumerate(config.data.sources):
        source = open_indexed(stated)
        # How often a source is drawn from, and in which order, is training's affair.
        described = {
            key: value
            for key, value in dataclasses.asdict(stated).items()
            if key not in ("weight", "window", "streaming", "stream_block")
        }
        facts = CodeFacts(
            vqrae_sha256=sha256,
            codebook_size=config.model.tokenizer.codebook_size,
            grid=config.grid,
            image_size=config.data.image_size,
            crop=config.data.crop,
            precision=config.model.tokenizer.precision,
            source=described,
            images=len(source),
            shard_size=shard_size,
        )
        extract_source(
            source, facts, Path(code_folder(config.data.codes, number)), encoder, config.data, batch_size
        )


def extract_source(
    source: IndexedSource,
    facts: CodeFacts,
    folder: Path,
    encoder: CodeEncoder,
    data: GenerationDataConfig,
    batch_size: int,
) -> None:
    """This rank's share of one source's missing shards: each rank takes every world-th of them."""
    from tqdm import tqdm

    from common import dist
    from common.data.corrupt import CorruptCounter
    from common.data.evaluation import EvaluationLoader
    from generation.codes import MANIFEST, shard_path, write_shard

    _claim(folder, facts)
    missing = [number for number in range(facts.shards) if not shard_path(folder, number).is_file()]
    dist.barrier()  # all ranks have seen the same missing shards before the first writes one
    mine = missing[dist.rank() :: dist.world()]
    # One loader for all of them: batches never span two shards, since the batch size divides theirs.
    images = array("q")
    for number in mine:
        images.extend(range(number * facts.shard_size, min((number + 1) * facts.shard_size, facts.images)))
    loader = EvaluationLoader(
        source=source,
        images=images,
        size=data.image_size,
        batch=batch_size,
        workers=data.workers,
        skip_corrupt=True,
        max_pixels=data.max_pixels,
    )
    # A share of the whole source, of which this rank sees a part: one bad tar ends nothing.
    corrupt = CorruptCounter(data.max_corrupt_share, minimum=max(1000, facts.images))
    shard: dict[str, list[Any]] = {"codes": [], "captions": [], "keys": [], "skipped": []}
    left = iter(mine)
    seen = 0
    with tqdm(total=len(images), unit="image", desc=folder.name, disable=not dist.is_main()) as bar:
        for batch in loader:
            if batch["key"]:
                shard["codes"] += list(encoder(batch["pixels"]).cpu().numpy())
            shard["captions"] += batch["caption"]
            shard["keys"] += batch["key"]
            shard["skipped"] += batch["skipped"]
            count = len(batch["key"]) + len(batch["skipped"])
            corrupt.add(batch["skipped"], count)
            seen += count
            bar.update(count)
            if seen % facts.shard_size == 0 or seen == len(images):
                corrupt.check()
                write_shard(shard_path(folder, next(left)), facts, **shard)
                shard = {name: [] for name in shard}
    dist.barrier()
    if dist.is_main():
        print(f"{folder / MANIFEST}: {_summary(folder, facts)}")


def _claim(folder: Path, facts: CodeFacts) -> None:
    """Take the folder for these codes, or find that it is theirs already.

    Raises:
        UserError: it holds other codes, or cannot be made.
    """
    from common import dist
    from common.files import write_text
    from generation.codes import MANIFEST, read_facts

    manifest = folder / MANIFEST
    if manifest.is_file():
        read_facts(folder).check(facts, manifest)
    dist.barrier()
    if dist.is_main() and not manifest.is_file():
        write_text(manifest, facts.to_json())
    dist.barrier()


def _summary(folder: Path, facts: CodeFacts) -> str:
    from generation.codes import open_shard, shard_path

    shards = [open_shard(shard_path(folder, number)) for number in range(facts.shards)]
    skipped = [line for shard in shards for line in shard.skipped]
    pictures = f"{sum(map(len, shards)):,} pictures in {len(shards):,} shards"
    return pictures + (f"; {len(skipped):,} left out, the first: {skipped[0]}" if skipped else "")


if __name__ == "__main__":
    run_cli(main)
