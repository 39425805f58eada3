"""GenEval's own detector, from mmdetection's address to a folder of transformers: downloaded, checked, converted.

What is notable here: mmdetection names its files by the first eight digits of their SHA-256, which are what is checked;
and a file of weights is read without executing anything in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from common.errors import refusing
from common.files import cache_file, whole_folder
from evals import downloads
from evals.preflight import Need, answers, is_offline

URL = (
    "https://download.openmmlab.com/mmdetection/v2.0/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco/"
    "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
)
# As published for mmdetection's versions 2 and 3.
CHECKPOINTS = ("743b7d99", "c9d0c4f2")


def need(option: str) -> Need:
    """For preflight: the converted detector, or the checkpoint, or an address that answers.

    Args:
        option: the command-line option that names a copy.
    """
    there = _folder(URL).is_dir() or downloads.kept_at(URL).is_file() or (not is_offline() and answers(URL))
    return Need(
        "the original's detector, of mmdetection", there, f"download {URL}\nand give its path as {option}"
    )


def folder() -> Path:
    """The original's detector as a folder, downloaded and converted where it is not there yet.

    Raises:
        UserError: see `downloads.download` and `mmdet_keys.save_converted`.
    """
    return _converted(URL, lambda: downloads.download(URL, named_by_hash(URL)))


def converted(checkpoint: Path) -> Path:
    """Any checkpoint of mmdetection's as a folder, converted where it is not there yet.

    Raises:
        UserError: see `mmdet_keys.save_converted`.
    """
    with refusing(f"{checkpoint}: cannot be read", OSError):
        identity = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return _converted(identity, lambda: checkpoint)


def named_by_hash(url: str) -> Callable[[bytes], bool]:
    """Whether a content is the file that bears such a name."""
    digits = re.search(r"-([0-9a-f]{8})\.pth$", url)
    assert digits, url
    return lambda content: hashlib.sha256(content).hexdigest().startswith(digits[1])


def _folder(identity: str) -> Path:
    return cache_file("detectors", identity, suffix="")


def _converted(identity: str, checkpoint: Callable[[], Path]) -> Path:
    from evals.detectors.mmdet_keys import save_converted

    place = _folder(identity)

    def make() -> None:
        file = checkpoint()
        with whole_folder(place) as partial:
            save_converted(file, partial)

    return downloads.made_once(place, make)
