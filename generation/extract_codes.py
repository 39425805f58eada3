"""Encode a recipe's pictures once, before training.

    python generation/extract_codes.py --config generation/recipes/qwen3_0_6b.yaml      # on any GPU of any node
    deepspeed generation/extract_codes.py --config generation/recipes/qwen3_0_6b.yaml   # one for each GPU of a node
    python generation/extract_codes.py --config generation/recipes/demo.yaml --captions-only

Every picture of `data.sources`, centre-cropped to `data.image_size`, is encoded by the VQRAE of `model.tokenizer` into
`data.codes`, from which the recipe then trains. Any number of processes on any number of nodes that share that folder
work side by side; they may join, end and be killed at any time, and each ends when all is done.

Called again, it encodes what is new or has changed, and nothing else; captions that were mended are read again. Codes
of another VQRAE or crop are refused. Pictures that cannot be read are left out, counted and named.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.command import positive
from common.errors import UserError, run_cli

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generation.codes.facts import CodeFacts
    from generation.codes.jobs import SourceJobs
    from generation.config import GenerationConfig

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "qwen3_0_6b.yaml"
LONGEST_SHARD = 65536  # 128 MB of codes at 1024 a picture, and as much memory


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_RECIPE, help="a recipe (default: %(default)s)")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="fields of the recipe to change"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        help="pictures at once, the same in all processes (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-size",
        type=positive,
        default=LONGEST_SHARD,
        help="pictures of a shard at most: a tar or table of more becomes several (default: %(default)s)",
    )
    parser.add_argument(
        "--stale-after",
        type=positive,
        default=120,
        metavar="SECONDS",
        help="a process that was not heard of for so long is dead, and its shard is taken over; the same in all "
        "processes (default: %(default)s)",
    )
    parser.add_argument(
        "--captions-only",
        action="store_true",
        help="encode nothing: the pictures are the same, though their tars or tables were written anew",
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher appends it
    arguments = parser.parse_intermixed_args(argv)

    from common.config import load_config
    from generation.config import GenerationConfig

    config = load_config(GenerationConfig, arguments.config, arguments.overrides)
    extract(
        config,
        arguments.batch_size,
        arguments.shard_size,
        stale=arguments.stale_after,
        captions_only=arguments.captions_only,
    )


def extract(
    config: GenerationConfig,
    batch_size: int,
    shard_size: int,
    *,
    stale: float = 120,
    captions_only: bool = False,
) -> None:
    """This process's part of all sources of the recipe.

    Args:
        shard_size: pictures of a shard at most.
        stale: seconds after which a process that was not heard of is dead.
        captions_only: encode nothing.

    Raises:
        UserError: a source can only be streamed, cannot be opened or has no captions where they are wanted, what stands
            in `data.codes` is something else, or too many pictures cannot be read.
    """
    from common import dist
    from common.models.weight_files import state_sha256
    from generation.assemble import assemble_vqrae
    from generation.code_encoder import CodeEncoder
    from generation.codes.facts import CodeFacts
    from generation.codes.jobs import SourceJobs
    from generation.codes.leases import Leases
    from generation.codes.worker import Worker

    if config.data.codes is None:
        raise UserError("data.codes: expected a folder for the codes, found null")
    root, speaks = Path(config.data.codes), os.environ.get("RANK", "0") == "0"
    device = dist.own_device()
    vqrae = assemble_vqrae(config.model)
    facts = CodeFacts(
        vqrae_sha256=state_sha256(vqrae.state_dict()),
        codebook_size=config.model.tokenizer.codebook_size,
        grid=config.grid,
        image_size=config.data.image_size,
        crop=config.data.crop,
        precision=config.model.tokenizer.precision,
        exact_decoding=config.data.exact_decoding,
    )
    _claim(root, facts)
    sources = [SourceJobs(root, stated, shard_size, captions_only) for stated in config.data.sources]
    encoder = CodeEncoder(vqrae.to(device), config.model.tokenizer.precision)
    with Leases(root / "leases", stale) as leases:
        Worker(sources, facts, encoder, config.data, batch_size, leases, shows=speaks).run()
        leases.forget(job.shard for jobs in sources for job in jobs.jobs)
        lines = [jobs.finish(config.data.max_corrupt_share) for jobs in sources]
    if speaks:
        print(*(f"{root}: {line}" for line in [*lines, *_left(root, sources)]), sep="\n")


def _claim(root: Path, facts: CodeFacts) -> None:
    """Take the folder for these codes, or find that it is theirs already.

    Raises:
        UserError: it holds other codes, or cannot be made.
    """
    from common.files import write_text
    from generation.codes.facts import MANIFEST, read_facts, refuse_former

    refuse_former(root)
    if not (root / MANIFEST).is_file():
        write_text(root / MANIFEST, facts.to_json())
    read_facts(root).check(facts, root / MANIFEST)


def _left(root: Path, sources: Sequence[SourceJobs]) -> list[str]:
    """Lines about what is there beside the codes of this recipe's sources."""
    from generation.codes.record import described, name_of_source, record_path, records, unused_files

    mine = {record_path(root, described(jobs.stated)) for jobs in sources}
    others = [name_of_source(record.source) for path, record in records(root).items() if path not in mine]
    unused = unused_files(root)
    lines = []
    if others:
        lines.append(f"codes of other sources stay: {', '.join(others)}")
    if unused:
        size = sum(path.stat().st_size for path in unused if path.is_file()) / 1e6
        lines.append(
            f"{len(unused):,} files ({size:,.1f} MB) are of no source as it is now; `vqrae codes prune {root}` removes "
            "them"
        )
    return lines


if __name__ == "__main__":
    run_cli(main)
