"""What post-training reached: by the rules that it was rewarded by, and by a judge that was no reward.

    python -m scripts.demo.post_training_report --demo runs/demo

Reads what the evaluations have left of the generator before (`geneval`) and after (`geneval_post_trained`), each also
without guidance (`_no_cfg`), lets the held-out judge look at the same pictures, and writes the section `post_training`
of summary.json. `agreement`: the share of the pictures on which judge and exact detector say the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.data.images import read_image
from common.errors import refusing, run_cli
from evals.detectors.centers import CentersDetector
from evals.detectors.detection import Detector
from evals.geneval.rules import TAGS, judge
from scripts.demo.command import demo_parser
from scripts.demo.generation_report import geneval
from scripts.demo.summary import merge
from scripts.demo.verdicts import Judged, judged_pictures

ARMS = {
    "before": "geneval",
    "after": "geneval_post_trained",
    "before_no_cfg": "geneval_no_cfg",
    "after_no_cfg": "geneval_post_trained_no_cfg",
}


def second_opinion(detector: Detector, pictures: Sequence[Judged]) -> dict[str, float]:
    """Share of right pictures by `detector`: `overall`, the mean over the tags, each tag; and `agreement`."""
    right: dict[str, list[bool]] = defaultdict(list)
    agreed = 0
    for one in tqdm(pictures, desc="held-out judge", unit="picture"):
        correct = judge(one.metadata, detector.detect(read_image(one.path))).correct
        right[one.metadata["tag"]].append(correct)
        agreed += correct == one.correct
    means = {tag: sum(right[tag]) / len(right[tag]) for tag in TAGS if right[tag]}
    return {"overall": sum(means.values()) / len(means), **means, "agreement": agreed / len(pictures)}


def trained(run: Path) -> dict[str, float]:
    """How the training itself saw it: reward, and diversity within a prompt's pictures, in its first and last line.

    Raises:
        UserError: there are no such lines.
    """
    path = run / "metrics.jsonl"
    with refusing(f"{path}: no lines of a post-training", OSError, ValueError, KeyError, IndexError):
        said = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in said if line["kind"] == "train"]
        ends = {"first": lines[0], "last": lines[-1]}
        found = {
            f"{name}_{end}": line[name] for name in ("reward", "diversity") for end, line in ends.items()
        }
        return {"steps": lines[-1]["step"], **found}


def main() -> None:
    demo: Path = demo_parser(__doc__).parse_args().demo
    detector = CentersDetector.from_folder(demo / "judge")
    stated = json.loads((demo / "judge" / "judge.json").read_text(encoding="utf-8"))
    section: dict[str, Any] = {"training": trained(demo / "post_training")}
    for name, folder in ARMS.items():
        section[f"geneval_{name}"] = geneval(demo / folder)
        section[f"held_out_judge_{name}"] = second_opinion(detector, judged_pictures(demo, folder))
    section["held_out_judge_on_true_scenes"] = stated["accuracy"]
    merge(demo / "summary.json", "post_training", section)
    for called in ("geneval", "held_out_judge"):
        before, after = (section[f"{called}_{arm}"]["overall"] for arm in ("before", "after"))
        print(f"post-training: {called} {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    run_cli(main)
