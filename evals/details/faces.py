"""Small faces: which of those that a detector finds in a picture it still finds in the reconstruction.

The detector is YuNet (Wu et al., Machine Intelligence Research 2023) and what compares two faces is SFace (arXiv
2205.12010), both as OpenCV runs them, from files of its model zoo; no package brings their weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from common.errors import UserError, refusing
from evals.details.charts import Chart, Seen
from evals.details.photographs import Photographs

if TYPE_CHECKING:
    from common.data.evaluation import EvaluationLoader

SAME_FACE = 0.5
"""Intersection over union from which on two boxes are of one face, as in WIDER FACE."""
GET_DETECTOR = "face_detection_yunet_2023mar.onnx of OpenCV's model zoo (github.com/opencv/opencv_zoo)"


@dataclass(frozen=True)
class Face:
    """`box`: left, top, width, height in px; `row`: as OpenCV has it, with five landmarks."""

    box: tuple[float, float, float, float]
    row: np.ndarray


class FaceDetector(Protocol):
    """`identity`: plain values from which what it finds follows; `compares`: whether `difference` may be called."""

    identity: dict[str, Any]
    compares: bool

    def find(self, picture: np.ndarray) -> list[Face]:
        """Faces in a picture (S, S, 3) uint8 RGB."""

    def difference(self, face: Face, one: np.ndarray, other: np.ndarray) -> float:
        """1 less the cosine of the features, in [0, 2], of two pictures at one and the same face's landmarks."""


class YuNet:
    """Through OpenCV.

    Args:
        detector: YuNet as ONNX.
        features: SFace as ONNX; None compares no faces.

    Raises:
        UserError: OpenCV is not installed, or a file is absent or none of its models.
    """

    def __init__(self, detector: str, features: str | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise UserError(
                "faces: OpenCV is not installed here: `bash scripts/setup.sh ocr` brings it"
            ) from error
        self._hashes = {}
        for name in filter(None, (detector, features)):
            with refusing(name, OSError):
                self._hashes[Path(name).name] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        with refusing(f"{detector}: expected YuNet as ONNX"):
            self._detector = cv2.FaceDetectorYN.create(detector, "", (32, 32))
        self._features: Any = None
        if features is not None:
            with refusing(f"{features}: expected SFace as ONNX"):
                self._features = cv2.FaceRecognizerSF.create(features, "")
        self.compares = features is not None
        self.identity: dict[str, Any] = {"opencv": cv2.__version__, "sha256": self._hashes}

    def find(self, picture: np.ndarray) -> list[Face]:
        """See `FaceDetector.find`."""
        self._detector.setInputSize((picture.shape[1], picture.shape[0]))
        rows = self._detector.detect(_bgr(picture))[1]
        return [Face((row[0], row[1], row[2], row[3]), row) for row in (() if rows is None else rows)]

    def difference(self, face: Face, one: np.ndarray, other: np.ndarray) -> float:
        """See `FaceDetector.difference`."""
        a, b = (
            self._features.feature(self._features.alignCrop(_bgr(picture), face.row)).ravel()
            for picture in (one, other)
        )
        return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


class SmallFaces(Photographs):
    """Every face that is found in a folder's pictures; its level is the geometric mean of its box's sides."""

    name, axis = "faces", "size of a face, px"
    harder: Literal["smaller", "larger"] = "smaller"

    def __init__(self, loader: EvaluationLoader, detector: FaceDetector) -> None:
        super().__init__(loader)
        self.detector = detector
        unlike = {"unlike": "distance of a face's features"} if detector.compares else {}
        self.measures = {"found": "faces found again", **unlike}
        self.identity = {**self.identity, "detector": detector.identity}

    def measure(self, chart: Chart, picture: np.ndarray) -> list[Seen]:
        """See `DetailTest.measure`; a row for each face of the chart, none where it has none."""
        again = self.detector.find(picture)
        seen = []
        for face in self.detector.find(chart.pixels):
            scores = {"found": float(any(overlap(face.box, other.box) >= SAME_FACE for other in again))}
            if self.detector.compares:
                scores["unlike"] = self.detector.difference(face, chart.pixels, picture)
            size = float(np.sqrt(face.box[2] * face.box[3]))
            seen.append(
                Seen(size, scores, {"key": chart.facts["key"], "box": [float(at) for at in face.box]})
            )
        return seen


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    sides = [
        max(0.0, min(one[at] + one[at + 2], other[at] + other[at + 2]) - max(one[at], other[at]))
        for at in (0, 1)
    ]
    both = sides[0] * sides[1]
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def _bgr(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, :, ::-1])
