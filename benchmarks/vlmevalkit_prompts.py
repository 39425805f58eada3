"""Is InternVL asked as VLMEvalKit asks it? Our class beside VLMEvalKit's with OpenGVLab's own `chat`, without weights.

    PYTHONPATH=KIT python -m benchmarks.vlmevalkit_prompts OPENGVLAB MODEL

KIT and OPENGVLAB are checkouts of open-compass/VLMEvalKit and OpenGVLab/InternVL, Python's environment has VLMEvalKit's
requirements, MODEL is an InternVL folder (-hf), of which only the processor is read. For each data set of the paper's
Table 3, twenty made-up rows go through both, up to the text tokenizer; it prints whether all bytes are equal, and the
fingerprint.
"""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from common.command import described_parser
from common.errors import UserError, run_cli


def their_chat(opengvlab: Path) -> Any:
    """`InternVLChatModel.chat` of OpenGVLab's checkpoints, cut out of its module, whose imports are not needed."""
    folder = opengvlab / "internvl_chat" / "internvl"
    path = folder / "model" / "internvl_chat" / "modeling_internvl_chat.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "chat"]
    if len(methods) != 1:
        raise UserError(f"{path}: expected one method chat, found {len(methods)}")
    body: list[ast.stmt] = [*methods]
    names = {**runpy.run_path(str(folder / "conversation.py")), "torch": torch}
    exec(compile(ast.Module(body=body, type_ignores=[]), str(path), "exec"), names)
    return names["chat"], names["get_conv_template"]


class Listening:
    """Stands where their checkpoint and its text tokenizer do, and keeps what comes."""

    def __init__(self, opengvlab: Path) -> None:
        self._chat, templates = their_chat(opengvlab)
        self.template = "internvl2_5"
        self.system_message = templates(self.template).system_message
        self.num_image_token = 256
        self.language_model = SimpleNamespace(device=torch.device("cpu"))
        self.heard: list[list[Any]] = []

    def chat(self, tokenizer: Any, **given: Any) -> str:
        return str(self._chat(self, tokenizer, **{**given, "verbose": False}))

    def convert_tokens_to_ids(self, token: str) -> int:
        return 0

    def __call__(self, text: str, return_tensors: str) -> dict[str, torch.Tensor]:
        self.text = text
        return {"input_ids": torch.zeros(1, 1), "attention_mask": torch.zeros(1, 1)}

    def generate(self, *, max_new_tokens: int, do_sample: bool, **_: Any) -> str:
        assert not do_sample
        self.heard.append([self.text, {"max_new_tokens": max_new_tokens}])
        return ""

    def batch_decode(self, ids: str, skip_special_tokens: bool) -> list[str]:
        return [ids]


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("opengvlab", type=Path, metavar="OPENGVLAB")
    parser.add_argument("model", metavar="MODEL")
    options = parser.parse_args()
    opengvlab, model = options.opengvlab, options.model
    from vlmeval.vlm import InternVLChat
    from vlmeval.vlm.base import BaseModel

    from evals.fingerprint import fingerprint
    from evals.vlmeval.models import InternVLStyle
    from evals.vlmeval.protocol import asked
    from evals.vlmeval.report import PAPER_DATA

    different = 0
    for data in PAPER_DATA:
        ours = InternVLStyle(model, None)
        theirs = object.__new__(InternVLChat)
        BaseModel.__init__(theirs)
        # What their constructor leaves behind but for model and text tokenizer.
        theirs.__dict__.update(use_lmdeploy=False, use_mpo_prompt=False, use_cot=False, use_postprocess=False)
        theirs.__dict__.update(
            _use_custom_prompt=True, system_prompt=None, cot_prompt=None, screen_parse=True
        )
        theirs.__dict__.update(version="V2.0", best_of_n=1, device="cpu")
        theirs.kwargs = {"do_sample": False, "max_new_tokens": 4096, "top_p": None}
        theirs.model = theirs.tokenizer = Listening(opengvlab)
        asked(data, ours)
        asked(data, theirs)
        equal = ours.model.heard == theirs.model.heard
        different += not equal
        heard = fingerprint(theirs.model.heard)
        print(
            f"{data:22} {len(theirs.model.heard)} prompts  {'equal' if equal else 'DIFFERENT'}  {heard}",
            flush=True,
        )
    if different:
        raise UserError(f"{different} data sets are asked otherwise")


if __name__ == "__main__":
    run_cli(main)
