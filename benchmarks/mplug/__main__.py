"""Our mPLUG and modelscope's own class on the same random weights: the same logits and the same answers?

    python -m benchmarks.mplug --environments runs/environments

Makes an environment with modelscope and transformers 4 (at the first call; a minute and 2 GB), lets modelscope's class
make weights of the full depth and answer questions about random pictures, and answers them by `evals/dpg/mplug` from
the file that it saved. Prints the largest difference of logits over all tokens of the answers, and how many pixels, ids
and answers are equal; exits with 1 where logits differ by more than 1e-4, or anything else at all. Pictures are
squeezed to --size, which decides between minutes and an hour on two cores; the released model's is 504. Needs 8 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.foreign.environments import TORCH, Environment, python_of
from benchmarks.mplug.layout import SHALLOW, Sizes, write_layout, write_questions
from common.command import described_parser, positive
from common.errors import UserError, run_cli

BOUND = 1e-4
MODELSCOPE = Environment(
    "modelscope 1.40 on transformers 4.57",
    "ask_modelscope.py",
    (
        *(
            "modelscope==1.40.2",
            "transformers==4.57.1",
            *TORCH,
            "addict",
            "attrs",
            "datasets",
            "decord",
            "einops",
        ),
        *("ftfy", "librosa", "opencv-python-headless", "rapidfuzz", "simplejson", "sortedcontainers", "timm"),
        *("unicodedata2", "zhconv"),
    ),
)


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--environments", type=Path, help="keep it there (default: made anew, and removed)")
    parser.add_argument("--pictures", type=positive, default=50, metavar="N", help="default: 50")
    parser.add_argument("--size", type=positive, default=112, help="px, a multiple of 14 (default: 112)")
    parser.add_argument("--shallow", action="store_true", help="a network of a few small layers, for a try")
    options = parser.parse_args()
    sizes = SHALLOW if options.shallow else Sizes(image_size=options.size)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        python = python_of(MODELSCOPE, options.environments or work / "environments")
        write_layout(work / "model", sizes)
        asked = write_questions(work / "work", options.pictures)
        script = Path(__file__).with_name(MODELSCOPE.probe)
        _run("modelscope's mPLUG", str(python), str(script), str(work / "model"), str(work / "work"))
        found = compare(work / "model", work / "work", asked)
    print(json.dumps(found, indent=2))
    equal = all(found[what] == len(asked) for what in ("pixels_equal", "ids_equal", "answers_equal"))
    if not (equal and found["largest_logit_difference"] <= BOUND):
        print(f"missed: logits within {BOUND:g}, and everything else equal", file=sys.stderr)
        sys.exit(1)


def compare(folder: Path, work: Path, asked: list[tuple[str, str]]) -> dict[str, Any]:
    """Ours from `folder` beside what the original has left in `work`."""
    import torch

    from common.data.images import read_image
    from evals.dpg.mplug.judge import MplugJudge

    original = torch.load(work / "original.pt", weights_only=True)
    judge = MplugJudge(folder, "cpu")
    equal, worst, lengths, start = [0, 0, 0], 0.0, set(), time.time()
    for (name, question), theirs in zip(asked, original["found"], strict=True):
        pixels, (ids, mask) = judge.pixels(read_image(work / name)), judge.tokens([question])
        with torch.inference_mode():
            states, attended = judge.model.read(judge.model.see(pixels), ids, mask)
            ours = judge.draw(states, attended)
            logits = judge.model.text_decoder(
                torch.tensor([theirs["answer_ids"]]),
                encoder_hidden_states=states,
                encoder_attention_mask=attended,
            ).logits[0]
        equal[0] += torch.equal(pixels[0], theirs["pixels"])
        equal[1] += ids[0].tolist() == theirs["ids"] and mask[0].tolist() == theirs["mask"]
        equal[2] += ours == [theirs["answer"]]
        worst = max(worst, (logits - theirs["logits"]).abs().max().item())
        lengths.add(len(theirs["answer_ids"]) - 1)
    answers = [one["answer"] for one in original["found"]]
    return {
        "questions": len(asked),
        "largest_logit_difference": worst,
        "deviation_of_logits": round(original["found"][0]["logits"].std().item(), 3),
        "pixels_equal": equal[0],
        "ids_equal": equal[1],
        "answers_equal": equal[2],
        "different_answers": len(set(answers)),
        "tokens_of_answers": sorted(lengths),
        "seconds": {"modelscope": round(original["seconds"]), "ours": round(time.time() - start)},
    }


def _run(what: str, *command: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise UserError(f"{what}: failed: {(lines or ['no message'])[-1].strip()}")


if __name__ == "__main__":
    run_cli(main)
