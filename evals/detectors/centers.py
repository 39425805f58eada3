"""A detector that has learned the miniature world: shape, colour, box and score of every object in a picture.

A second opinion beside `world.py`, which compares with templates: a few convolutions say for each cell of 2 x 2 px how
likely it is the middle of each shape, which colour that has and where its box ends. An object stands where the heat is
highest around. Source: CenterNet (arXiv 1904.07850), in miniature.

What is notable here: a target's whole middle is hot, not a peak, so that a centre between two cells is as certain as
any other; scores of up to 1 are what GenEval's counting asks for (0.9). `scripts/demo/held_out_judge.py` trains it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d
from transformers import PreTrainedConfig, PreTrainedModel

from common.data.images import to_float
from common.models.strict_loading import load_strictly
from common.models.weight_files import check_model_type, weights_sha256
from evals.detectors.detection import Detection
from evals.detectors.world_shapes import COLORS, SHAPES

MODEL_TYPE = "world_centers"
STRIDE = 2  # px of a cell
REACH = 5  # cells: of two peaks nearer than this, along both axes, only the hotter one is an object
LEAST = 0.1  # score under which nothing is an object
# Of logits, before they become scores. Trained on worn pictures, heat says how likely a shape is at all; GenEval's
# counting asks for 0.9 of detectors that are surer of themselves, and so gets 3 to 1.
SHARPNESS = 2.0
_SMOOTH = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


class CentersConfig(PreTrainedConfig):
    """`width`: channels; `layers`: convolutions at the cells' resolution."""

    model_type = MODEL_TYPE

    def __init__(self, width: int = 48, layers: int = 4, **rest: Any) -> None:
        self.width, self.layers = width, layers
        super().__init__(**rest)


class Centers(PreTrainedModel):
    """Pixels (B, 3, S, S) in [0, 1] to what stands in each of (S / 2) x (S / 2) cells."""

    config_class = CentersConfig
    main_input_name = "pixels"

    def __init__(self, config: CentersConfig) -> None:
        super().__init__(config)
        width = config.width
        steps = [_step(3, width // 2), _step(width // 2, width, stride=STRIDE)]
        self.body = nn.Sequential(*steps, *(_step(width, width) for _ in range(config.layers)))
        self.head = nn.Conv2d(width, len(SHAPES) + len(COLORS) + 4, 1)
        self.post_init()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of heat (B, shapes, h, w) and of colours (B, colours, h, w); and boxes (B, 4, h, w): the distances,
        in px, from a cell's middle to the box's left, top, right and bottom edge."""
        output = self.head(self.body(pixels * 2 - 1))
        heat, colors, box = output.split((len(SHAPES), len(COLORS), 4), 1)
        return heat, colors, box * 8


def _step(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class CentersDetector:
    """See `detection.Detector`."""

    classes, colors = SHAPES, COLORS

    def __init__(self, model: Centers, identity: dict[str, Any]) -> None:
        self._model, self.identity = model.eval().float(), identity

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device | str = "cpu") -> CentersDetector:
        """What `save_pretrained` of a `Centers` has left.

        Raises:
            UserError: it is absent, of another kind, or damaged.
        """
        check_model_type(folder, MODEL_TYPE)
        model = load_strictly(Centers, folder, "a detector of the miniature world").to(device)
        code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        weights = weights_sha256(folder)
        return cls(model, {"name": MODEL_TYPE, "weights_sha256": weights, "code_sha256": code})

    @torch.inference_mode()
    def detect(self, picture: Image.Image) -> list[Detection]:
        """Every peak of heat in an RGB picture, most certain first.

        Raises:
            ValueError: its sides are not even.
        """
        if picture.width % STRIDE or picture.height % STRIDE:
            raise ValueError(
                f"picture: expected sides divisible by {STRIDE}, found {picture.width} x {picture.height} px"
            )
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        heat, colors, boxes = self._model(to_float(pixels[None]).to(self._model.device))
        return found(heat[0].cpu(), colors[0].cpu(), boxes[0].cpu())


def found(heat: Tensor, colors: Tensor, boxes: Tensor) -> list[Detection]:
    """The objects of one picture.

    Args: as `Centers` gives them, without the first axis.
    """
    heat = (SHARPNESS * heat).sigmoid()
    # Where the whole middle is hot, its own middle is the peak.
    even = conv2d(heat.amax(0)[None, None], _SMOOTH[None, None], padding=1)[0]
    peaks = (even == max_pool2d(even, REACH, 1, REACH // 2))[0] & (heat.amax(0) > LEAST)
    hottest = max_pool2d(heat, 3, 1, 1)
    objects: list[Detection] = []
    taken: list[tuple[int, int]] = []  # of peaks as hot as each other, the first
    for row, column in peaks.nonzero().tolist():
        if any(max(abs(row - other), abs(column - one)) <= REACH // 2 for other, one in taken):
            continue
        taken.append((row, column))
        score, shape = hottest[:, row, column].max(0)
        x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
        left, top, right, bottom = boxes[:, row, column].tolist()
        color = COLORS[int(colors[:, row, column].argmax())]
        box = (x - left, y - top, x + right, y + bottom)
        objects.append(
            Detection(name=SHAPES[int(shape)], score=np.float32(float(score)), box=box, color=color)  # type: ignore[arg-type]
        )
    return sorted(objects, key=lambda one: -one.score)
