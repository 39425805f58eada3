"""The miniature world's exact detector (`scripts/demo/detector.py`) as a backend for GenEval's rules.

It finds circles, squares, triangles and crosses of ten colours in pictures of the demo's kind, and learns nothing.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.geneval_rules import Detection

DEMO = Path(__file__).parents[1] / "scripts" / "demo"


class WorldDetector:
    """See `geneval_detections.Detector`."""

    def __init__(self) -> None:
        # Scripts are not installed; they find their neighbours by the folder they stand in, first on the path.
        sys.path.insert(0, str(DEMO))
        try:
            import detector
            import scenes
        finally:
            sys.path.remove(str(DEMO))
        self._detect = detector.detect
        self.classes: tuple[str, ...] = scenes.SHAPES
        self.colors: tuple[str, ...] = scenes.COLORS
        code = b"".join((DEMO / f"{name}.py").read_bytes() for name in ("detector", "scenes"))
        self.identity: dict[str, Any] = {"name": "world", "code_sha256": hashlib.sha256(code).hexdigest()}

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Everything of an object's size in a square RGB picture; ValueError for another form."""
        return [
            Detection(
                name=one.shape,
                score=np.float32(one.score),  # type: ignore[arg-type]
                box=one.box,
                color=one.color,
                mask=one.mask,
            )
            for one in self._detect(np.asarray(picture))
        ]
