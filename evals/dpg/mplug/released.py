"""mPLUG's released files: which they are, where they are, and how to get them. Light: preflight asks.

DIR/configuration.json   modelscope's: the task
DIR/config.yaml          sizes of the vision tower, of the search, and the name of the BERT config
DIR/config_bert.json     sizes of all BERT layers, and how many read, fuse and answer
DIR/vocab.txt            BERT's uncased vocabulary
DIR/pytorch_model.bin    the weights
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = "damo/mplug_visual-question-answering_coco_large_en"
TASK = "visual-question-answering"
WEIGHTS, VOCABULARY, SETTINGS, MODELSCOPE = (
    "pytorch_model.bin",
    "vocab.txt",
    "config.yaml",
    "configuration.json",
)
HOW = f"modelscope download --model {NAME} --local_dir DIR (its package in an environment of its own), then --judge DIR"


def looks_like(folder: Path) -> bool:
    """Whether a folder is laid out as mPLUG's."""
    return (folder / MODELSCOPE).is_file() and (folder / SETTINGS).is_file()


def find() -> Path | None:
    """The released files where modelscope's versions have kept their downloads; None: nowhere."""
    given = os.environ.get("MODELSCOPE_CACHE")
    homes = [Path(given)] if given else [Path("~/.cache/modelscope"), Path("~/.cache/modelscope/hub")]
    patterns = (f"models/{NAME}", f"models/{NAME.replace('/', '--')}/snapshots/*", NAME)
    for home in homes:
        for pattern in patterns:
            for folder in sorted(home.expanduser().glob(pattern)):
                if looks_like(folder):
                    return folder
    return None


def absent(folder: Path) -> list[str]:
    """Which of the files a folder lacks."""
    names = (MODELSCOPE, SETTINGS, VOCABULARY, WEIGHTS)
    return [name for name in names if not (folder / name).is_file()]
