"""modelscope's own mPLUG on random weights; `benchmarks.mplug` runs it by a Python that does not know this project.

    python ask_modelscope.py FOLDER WORK

FOLDER holds the released layout without weights, which the original's class makes and this saves; WORK/asked.json the
questions about WORK/*.png. WORK/original.pt receives pixels, ids, the best answers' ids and logits, and the answers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from PIL import Image
from random_weights import fill  # type: ignore[import-not-found]


class SpeechPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for what modelscope imports for models of speech beside mPLUG, and mPLUG never calls."""

    NAMES = ("fairseq", "torchaudio")

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in self.NAMES:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


sys.meta_path.append(SpeechPackages())
from modelscope.models.multi_modal.mplug import MPlugConfig  # noqa: E402
from modelscope.models.multi_modal.mplug.modeling_mplug import MPlugForVisualQuestionAnswering  # noqa: E402
from modelscope.models.multi_modal.mplug_for_all_tasks import MPlugForAllTasks  # noqa: E402
from modelscope.preprocessors.multi_modal import MPlugPreprocessor  # noqa: E402


def write_weights(folder: Path) -> None:
    """Those of the original's class, by its names."""
    config = MPlugConfig.from_yaml_file(str(folder / "config.yaml"))
    config.model_dir = str(folder)
    model = MPlugForVisualQuestionAnswering(config)
    fill(dict(model.named_parameters()))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def main() -> None:
    folder, work = Path(sys.argv[1]), Path(sys.argv[2])
    write_weights(folder)
    # What its pipeline joins; the pipeline's own module imports the models of other tasks, and with them fairseq.
    prepare, asked = MPlugPreprocessor(str(folder)), MPlugForAllTasks(str(folder)).eval()
    network = asked.model
    kept: dict[str, Any] = {}
    generation = network.generation

    def watched(states: torch.Tensor, mask: torch.Tensor, out_size: int = 1) -> Any:
        kept.update(states=states, mask=mask)
        kept["ids"] = generation(states, mask, out_size=out_size)
        return kept["ids"]

    network.generation = watched
    found = []
    start = time.time()
    for name, question in json.loads((work / "asked.json").read_text()):
        with Image.open(work / name) as picture:
            picture.load()
        inputs = prepare({"image": picture, "question": question})
        with torch.no_grad():
            answer = asked(inputs)["text"]
            ids = kept["ids"][0][0][0]
            logits = network.text_decoder(
                ids[None],
                encoder_hidden_states=kept["states"],
                encoder_attention_mask=kept["mask"],
                return_dict=True,
            ).logits[0]
        found.append(
            {
                "answer": answer,
                "answer_ids": ids.tolist(),
                "logits": logits,
                "pixels": inputs["image"][0],
                "ids": inputs["question"]["input_ids"][0].tolist(),
                "mask": inputs["question"]["attention_mask"][0].tolist(),
            }
        )
    torch.save({"found": found, "seconds": time.time() - start}, work / "original.pt")


if __name__ == "__main__":
    main()
