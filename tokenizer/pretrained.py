"""Loaders of the networks that losses and metrics look through: VGG16 for LPIPS, ConvNeXt-S, FID's Inception.

Each takes a path, or None for the library's own download (kept in the library's cache). A file is read
without executing code in it and must fit the architecture exactly. Whatever goes wrong ends in one line that
names the file and the option that sets it.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, refusing

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's name for FID's Inception, known elsewhere as `pt_inception-2015-12-05-6726825d.pth`."""
VGG_FILE = "vgg16-397923af.pth"
CONVNEXT_REPOSITORY, CONVNEXT_FILE = "timm/convnext_small.fb_in1k", "model.safetensors"
NO_DOWNLOAD = "absent, and its download failed; set"

_TORCHVISION_TO_TIMM = (
    (r"^features\.0\.(\d)\.", r"stem.\1."),
    (r"^features\.([1357])\.(\d+)\.layer_scale$", r"stages.\1.blocks.\2.gamma"),
    (r"^features\.([1357])\.(\d+)\.block\.0\.", r"stages.\1.blocks.\2.conv_dw."),
    (r"^features\.([1357])\.(\d+)\.block\.2\.", r"stages.\1.blocks.\2.norm."),
    (r"^features\.([1357])\.(\d+)\.block\.3\.", r"stages.\1.blocks.\2.mlp.fc1."),
    (r"^features\.([1357])\.(\d+)\.block\.5\.", r"stages.\1.blocks.\2.mlp.fc2."),
    (r"^features\.([246])\.(\d)\.", r"stages.\1.downsample.\2."),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)


def read_state_dict(path: str | Path, option: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file, on the CPU; nothing in the file is executed.

    Raises:
        UserError: absent, unreadable, or not a mapping of names to tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {option} must name the weights")
    with refusing(f"{path}: {option}: not a readable weights file"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"{path}: {option}: expected a state dict (names to tensors), found {type(state).__name__}"
        )
    return state


def load_lpips(weights: str | None, option: str) -> nn.Module:
    """`lpips.LPIPS` with VGG16: linear heads from the package, backbone from torchvision's state dict."""
    import lpips
    import torchvision

    if weights is None:
        source = torchvision.models.VGG16_Weights.IMAGENET1K_V1
        where = str(Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE)
        with refusing(f"{where}: {NO_DOWNLOAD} {option}"):
            state: Any = source.get_state_dict(progress=True, check_hash=True)
    else:
        where, state = str(weights), read_state_dict(weights, option)
    with warnings.catch_warnings():  # the package calls torchvision by its old argument names
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    # The package cuts torchvision's `features` into slices but keeps their indices: slice2.5 is features.5.
    ours = {f"features.{key.split('.', 1)[1]}": key for key in network.net.state_dict()}
    backbone = {
        ours.get(key, key): value for key, value in state.items() if not key.startswith("classifier.")
    }
    _load_strictly(network.net, backbone, where, option)
    return network


def load_convnext_small(weights: str | None, option: str) -> nn.Module:
    """timm's ConvNeXt-S with its 1000 ImageNet logits, from any of the three published key layouts."""
    import timm
    from timm.models.convnext import checkpoint_filter_fn

    if weights is None:
        where = f"{CONVNEXT_REPOSITORY}/{CONVNEXT_FILE}"
        with refusing(f"{where}: {NO_DOWNLOAD} {option}"):
            weights = _convnext_from_hub()
        state = read_state_dict(weights, option)
    else:
        where, state = str(weights), read_state_dict(weights, option)
    network = timm.create_model("convnext_small", pretrained=False, num_classes=1000)
    if "features.0.0.weight" in state:
        state = convnext_from_torchvision(state)
    with refusing(f"{where}: {option}: not ConvNeXt-S"):  # keys are looked up while they are renamed
        state = checkpoint_filter_fn(state, network)
    _load_strictly(network, state, where, option)
    return network


def load_inception_fid(weights: str | None, option: str) -> nn.Module:
    """torchmetrics' FID extractor: uint8 (B, 3, H, W) -> (B, 2048), resized as TensorFlow 1 did.

    `antialias=False` is the resize of the original FID and of TiTok's evaluation, not torchmetrics' default.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    if weights is None:
        path, name = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE, None
        complaint = f"{path}: {NO_DOWNLOAD} {option}"
    else:
        path, name = Path(weights), str(weights)
        read_state_dict(path, option)  # torch-fidelity itself would unpickle whatever the file holds
        complaint = f"{path}: {option}: not FID's Inception ({INCEPTION_FILE})"
    with refusing(complaint):
        extractor = NoTrainInceptionV3("inception-v3-compat", ["2048"], name, antialias=False)
    extractor.num_features = 2048  # else torchmetrics runs the network once to find out
    return extractor


def convnext_from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's keys in timm's: `features` 1, 3, 5, 7 are the stages' blocks, 2, 4, 6 downsample."""
    converted = {}
    for key, value in state.items():
        for pattern, replacement in _TORCHVISION_TO_TIMM:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"^stages\.(\d)\.", lambda match: f"stages.{int(match[1]) // 2}.", key)
        converted[key] = value.flatten() if key.endswith(".gamma") else value
    return converted


def _convnext_from_hub() -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:  # what is cached needs no network, and no waiting for one
        return hf_hub_download(CONVNEXT_REPOSITORY, CONVNEXT_FILE, local_files_only=True)
    except LocalEntryNotFoundError:
        return hf_hub_download(CONVNEXT_REPOSITORY, CONVNEXT_FILE)


def _load_strictly(network: nn.Module, state: dict[str, Tensor], where: str, option: str) -> None:
    with refusing(f"{where}: {option}: does not fit the architecture"):
        network.load_state_dict(state, strict=True)
