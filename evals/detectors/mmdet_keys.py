"""Convert the original GenEval detector, an mmdetection checkpoint, to a folder that transformers loads.

    python -m evals.detectors.mmdet_keys mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth OUT

The architecture is the same, so it is a matter of names, and of three layouts: query, key and value stand in one matrix
there; and Swin's patch merging lists the four neighbours of each channel, here the channels of each neighbour, of which
the second and third change places. Both generations of mmdetection's names (2.x, 3.x) are understood. Nothing in the
file is executed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, one_line, refusing, run_cli
from common.files import obeying_umask, whole_folder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Mask2FormerConfig

LEVELS, QUERIES = "model.pixel_level_module.", "model.transformer_module."
BLOCK, NORMS = LEVELS + r"encoder.swin.encoder.layers.\1.", LEVELS + "encoder.hidden_states_norms."
# The feed-forward layers, in the names of mmdetection 2.x and 3.x.
FEED = {
    f"{ffn}.layers.{theirs}.": f"{ours}."
    for ffn in ("ffns.0", "ffn")
    for theirs, ours in (("0.0", "fc1"), ("1", "fc2"))
}

SECTIONS: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        r"backbone\.patch_embed\.",
        LEVELS + "encoder.swin.embeddings.",
        {"projection.": "patch_embeddings.projection.", "norm.": "norm."},
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.",
        BLOCK + r"blocks.\2.",
        {
            "norm1.": "layernorm_before.",
            "norm2.": "layernorm_after.",
            "attn.w_msa.qkv.": "attention.[qkv]_proj.",
            "attn.w_msa.proj.": "attention.o_proj.",
            "attn.w_msa.relative_position_bias_table": (
                "attention.relative_position_bias.relative_position_bias_table"
            ),
            "ffn.layers.0.0.": "mlp.fc1.",
            "ffn.layers.1.": "mlp.fc2.",
        },
    ),
    (r"backbone\.stages\.(\d+)\.", BLOCK, {"downsample.": "downsample."}),
    (r"backbone\.", NORMS, {f"norm{index}.": f"stage{index + 1}." for index in range(4)}),
    (
        r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.",
        LEVELS + r"decoder.encoder.layers.\1.",
        {
            "attentions.0.": "self_attn.",
            "self_attn.": "self_attn.",
            "norms.0.": "self_attn_layer_norm.",
            "norms.1.": "final_layer_norm.",
            **FEED,
        },
    ),
    (
        r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.",
        LEVELS + r"decoder.input_projections.\1.",
        {"conv.": "0.", "gn.": "1."},
    ),
    (
        r"panoptic_head\.pixel_decoder\.",
        LEVELS + "decoder.",
        {
            "level_encoding.weight": "level_embed",
            "lateral_convs.0.conv.": "adapter_1.0.",
            "lateral_convs.0.gn.": "adapter_1.1.",
            "output_convs.0.conv.": "layer_1.0.",
            "output_convs.0.gn.": "layer_1.1.",
            "mask_feature.": "mask_projection.",
        },
    ),
    (
        # A layer's first attention looks at the picture, its second at the other queries.
        r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.",
        QUERIES + r"decoder.layers.\1.",
        {
            **dict.fromkeys(("attentions.0.attn.", "cross_attn.attn."), "cross_attn."),
            **dict.fromkeys(
                ("attentions.1.attn.in_proj_", "self_attn.attn.in_proj_"), "self_attn.[qkv]_proj."
            ),
            **dict.fromkeys(
                ("attentions.1.attn.out_proj.", "self_attn.attn.out_proj."), "self_attn.out_proj."
            ),
            "norms.0.": "cross_attn_layer_norm.",
            "norms.1.": "self_attn_layer_norm.",
            "norms.2.": "final_layer_norm.",
            **FEED,
        },
    ),
    (
        r"panoptic_head\.",
        QUERIES,
        {
            "transformer_decoder.post_norm.": "decoder.layernorm.",
            "query_embed.": "queries_embedder.",
            "query_feat.": "queries_features.",
            "level_embed.": "level_embed.",
            **{f"mask_embed.{2 * i}.": f"decoder.mask_predictor.mask_embedder.{i}.0." for i in range(3)},
        },
    ),
    (r"panoptic_head\.", "", {"cls_embed.": "class_predictor."}),
)
# Not weights there: an index that follows from the window's size, class weights of the loss.
LEFT_OUT = re.compile(r"relative_position_index$|^panoptic_head\.loss_|^data_preprocessor\.")
# Not there: the norm after Swin's last stage, which nothing reads, and class weights of the loss.
NOT_THERE = (
    f"{LEVELS}encoder.swin.layernorm.weight",
    f"{LEVELS}encoder.swin.layernorm.bias",
    "criterion.empty_weight",
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmdetection's tensors by transformers' names.

    Raises:
        UserError: a name that is none of this architecture's.
    """
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if LEFT_OUT.search(key):
            continue
        name = renamed(key)
        if "[qkv]" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                converted[name.replace("[qkv]", letter)] = part.clone()
        elif ".downsample." in name:
            converted[name] = by_neighbour(tensor)
        else:
            converted[name] = tensor
    return converted


def renamed(key: str) -> str:
    """transformers' name, with `[qkv]` where three tensors of it stand in one of mmdetection's."""
    for section, ours, parts in SECTIONS:
        if found := re.match(section, key):
            rest = key[found.end() :]
            for theirs, part in parts.items():
                if rest.startswith(theirs):
                    return found.expand(ours) + part + rest.removeprefix(theirs)
    raise UserError(f"{key}: no weight of mmdetection's Mask2Former with Swin")


def by_neighbour(tensor: Tensor) -> Tensor:
    """The last axis from (channel, neighbour) to (neighbour, channel), neighbours down before right."""
    parts = tensor.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
    return parts.transpose(-1, -2).flatten(-2).contiguous()


def save_converted(checkpoint: Path, folder: Path, config: Mask2FormerConfig | None = None) -> None:
    """Write `checkpoint` as a folder that `--detector` takes.

    Args:
        config: of the detector; None: the original's, Swin-S with COCO's 80 classes.

    Raises:
        UserError: the file is no such checkpoint, or not a whole one.
    """
    import torch
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    from evals.detectors.coco_classes import CLASSES

    try:
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = convert(stored.get("state_dict", stored))
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    except Exception as error:  # unpickling raises nearly anything on a damaged file
        raise UserError(f"{checkpoint}: cannot be read as weights: {one_line(error)[:300]}") from error
    config = config or Mask2FormerConfig(id2label=dict(enumerate(CLASSES)))
    config.mmdet_sha256 = sha256
    model = Mask2FormerForUniversalSegmentation(config)
    # Shapes may differ.
    with refusing(f"{checkpoint}: not the detector's architecture", RuntimeError):
        missing, _ = model.load_state_dict(state, strict=False)
        misfits = [key for key in missing if key not in NOT_THERE] + sorted(
            set(state) - set(model.state_dict())
        )
    if misfits:
        raise UserError(f"{checkpoint}: {misfits[0]}: missing or unknown ({len(misfits)} in all)")
    with obeying_umask(folder):
        model.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="mmdet_keys.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="mmdetection's .pth")
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to write")
    arguments = parser.parse_args(argv)
    with whole_folder(arguments.folder, replace=False) as partial:
        save_converted(arguments.checkpoint, partial)
    print(f"wrote {arguments.folder}; evals/geneval/run.py takes it as --detector")


if __name__ == "__main__":
    run_cli(main)
