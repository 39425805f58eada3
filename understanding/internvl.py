"""A VQRAE's InternViT inside InternVL3, untrained, and InternVL's own out of it: the paper's Table 3.

    python understanding/internvl.py insert VQRAE INTERNVL OUT
    python understanding/internvl.py extract INTERNVL OUT

insert writes a copy of INTERNVL, a folder or hub id of an `InternVLForConditionalGeneration` of any size (such as
OpenGVLab/InternVL3-8B-hf), whose vision tower is the encoder of VQRAE. Nothing else changes: only the files that hold
the tower are written anew, in the precision they had, and what a config.json of transformers 5 says in its own way is
said as on the hub too. extract takes INTERNVL's own tower as a plain folder, for
`model.encoder.source` of a tokenizer recipe; it reads the original InternVL and InternViT checkpoints too.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_cli
from common.files import whole_folder

if TYPE_CHECKING:
    from torch import Tensor

    from common.models.vision_encoder import VisionEncoder

PREFIXES = ("model.vision_tower.", "vision_tower.")  # in memory, and in the files that transformers writes
# What a tower computes follows from these fields of its config, and its weights.
COMPUTED_FROM = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_act",
    "norm_type",
    "layer_norm_eps",
    "attention_bias",
    "use_qk_norm",
    "use_absolute_position_embeddings",
    "use_mean_pooling",
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    insert_parser = verbs.add_parser("insert", help="a VQRAE's encoder into a copy of InternVL")
    insert_parser.add_argument("vqrae", metavar="VQRAE", help="VQRAE, or plain tower: folder or hub id")
    insert_parser.add_argument("internvl", metavar="INTERNVL", help="folder or hub id (-hf)")
    insert_parser.add_argument("output", metavar="OUT", type=Path, help="folder to make")
    insert_parser.set_defaults(run=lambda given: insert(given.vqrae, given.internvl, given.output))
    extract_parser = verbs.add_parser("extract", help="InternVL's tower as a plain folder")
    extract_parser.add_argument("internvl", metavar="INTERNVL", help="folder or hub id")
    extract_parser.add_argument("output", metavar="OUT", type=Path, help="folder to make")
    extract_parser.set_defaults(run=lambda given: extract(given.internvl, given.output))
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


def insert(vqrae: str, internvl: str, output: Path) -> None:
    """Write `output`: `internvl` with the encoder of `vqrae` as its vision tower.

    Raises:
        UserError: `output` is there already; no InternVL; a tower of another architecture, or normalised otherwise;
            weights of another kind than safetensors.
    """
    from common.models.hub_format import restate_config
    from common.models.vqrae_loading import load_tower
    from common.models.weight_files import check_model_type, resolve_folder, weight_files

    encoder = _internvit(load_tower(vqrae), vqrae)
    source = resolve_folder(internvl)
    check_model_type(source, "internvl", hint=" (a -hf checkpoint)")
    _check_fit(encoder, vqrae, source, internvl)
    files = weight_files(source, internvl)
    for path in files:
        if path.suffix != ".safetensors":
            raise UserError(f"{path}: expected safetensors; let transformers save the checkpoint once")
    weights = dict(encoder.model.state_dict())
    held = {path: [key for key in _keys(path) if key.startswith(PREFIXES)] for path in files}
    found = sorted(_tower_name(key) for keys in held.values() for key in keys)
    if found != sorted(weights):
        stranger = sorted(set(found) ^ set(weights)) or found
        raise UserError(
            f"{internvl}: {stranger[0]}: the weights of the vision tower are not those of {vqrae}"
        )
    with whole_folder(output, replace=False) as unfinished:
        for path in sorted(source.iterdir()):
            if path.is_file() and not held.get(path):
                shutil.copyfile(path, unfinished / path.name)  # what a hub's cache links to, not the link
        for path, keys in held.items():
            if keys:
                _rewrite(path, unfinished / path.name, {key: weights[_tower_name(key)] for key in keys})
        restate_config(unfinished)
    print(f"{output}: {internvl} with the encoder of {vqrae}")


def extract(internvl: str, output: Path) -> None:
    """Write `output`: the vision tower of `internvl` as a plain folder, with its image processor, in float32.

    Raises:
        UserError: `output` is there already, or there is no InternViT in `internvl`.
    """
    from common.models.encoder_loading import load_encoder

    encoder = _internvit(load_encoder(internvl), internvl)
    with whole_folder(output, replace=False) as unfinished:
        encoder.save_pretrained(unfinished)
    print(f"{output}: the vision tower of {internvl}")


def _internvit(encoder: VisionEncoder, source: str) -> VisionEncoder:
    from common.models.vision_encoder import InternVisionEncoder

    if not isinstance(encoder, InternVisionEncoder):
        raise UserError(f"{source}: model_type: expected an InternViT, found {encoder.model_type!r}")
    return encoder


def _check_fit(encoder: VisionEncoder, vqrae: str, source: Path, internvl: str) -> None:
    from common.models.encoder_loading import read_normalization, read_tower_config

    config, _ = read_tower_config(source)
    for field in COMPUTED_FROM:
        ours, theirs = (_plain(getattr(one, field)) for one in (encoder.model.config, config))
        if ours != theirs:
            raise UserError(
                f"{internvl}: config.json: vision_config.{field}: {vqrae} has {ours}, found {theirs}"
            )
    normalization = read_normalization(source)
    for field, own, stated in zip(
        ("image_mean", "image_std"), (encoder.image_mean, encoder.image_std), normalization, strict=True
    ):
        if stated is not None and _plain(stated) != _plain(own):
            raise UserError(f"{internvl}: {field}: {vqrae} was trained with {list(own)}, found {stated}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _tower_name(key: str) -> str:
    return key.removeprefix(next(prefix for prefix in PREFIXES if key.startswith(prefix)))


def _keys(path: Path) -> list[str]:
    from common.models.weight_files import tensors_of

    return [stored.key for stored in tensors_of(path)]


def _rewrite(source: Path, target: Path, replaced: dict[str, Tensor]) -> None:
    """One file of weights with some of its tensors replaced; names, precision and metadata stay."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as handle:
        tensors = {}
        for key in handle.keys():  # noqa: SIM118
            tensors[key] = handle.get_tensor(key)
            if key in replaced:
                tensors[key] = replaced[key].to(tensors[key].dtype).reshape_as(tensors[key]).contiguous()
        save_file(tensors, target, metadata=handle.metadata())


if __name__ == "__main__":
    run_cli(main)
