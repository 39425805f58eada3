"""Score a model's understanding with lmms-eval: the eight tasks of the paper's Table 3, or others.

    bash evals/run_lmms_eval.sh MODEL
    bash evals/run_lmms_eval.sh MODEL --tasks pope,mme --limit 20
    bash evals/run_lmms_eval.sh MODEL --questions runs/demo/world/val_questions.json

MODEL is a folder that understanding/train.py exported (RUN/model), or a hub id of a LLaVA model. --questions asks
those of a file of LLaVA conversations instead, offline, and compares the answers exactly. The first call with the
network fetches the data sets; --limit 1 is enough for that.

The same command goes on where a former one was stopped: finished tasks are not run again, and of an unfinished one no
answered question is asked again. DIR receives results.json, samples/TASK.jsonl (every question with its answer),
tasks/TASK.json (all that lmms-eval found) and answers/.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command import add_batch_size, add_device
from common.errors import run_cli
from evals import preflight
from evals.command import add_paper_row, build_parser, claim_output
from evals.lmms.manifest import MODEL_ID
from evals.lmms.tasks import PAPER_TASKS, SEED_BENCH, SEED_BENCH_VIDEOS

if TYPE_CHECKING:
    from evals.lmms.session import TaskResult

SETUP = "bash scripts/setup.sh evals"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = build_parser(
        "run_lmms_eval.sh",
        __doc__,
        "folder that understanding/train.py exported, or hub id",
        writes=("answers", "questions", "samples", "tasks"),
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--tasks",
        type=lambda text: [name for name in text.split(",") if name],
        default=list(PAPER_TASKS),
        metavar="A,B",
        help=f"names that lmms-eval knows (default: {','.join(PAPER_TASKS)})",
    )
    what.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="LLaVA conversations to ask instead, JSON or JSON Lines",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the paths in FILE start (default: FILE's folder)"
    )
    parser.add_argument(
        "--seedbench-videos",
        action="store_true",
        help=f"ask SEED-Bench's {SEED_BENCH_VIDEOS:,} questions about videos too; none of them counts for its score",
    )
    add_batch_size(parser, "questions of one picture")
    add_device(parser)
    parser.add_argument(
        "--attn-implementation",
        default="sdpa",
        metavar="NAME",
        help="eager, sdpa, flash_attention_2 (default: sdpa)",
    )
    add_paper_row(parser, "understanding")
    return parser.parse_args(argv)


def needs(args: argparse.Namespace) -> list[preflight.Need]:
    """lmms-eval, our entry in it, the model, and what is asked."""
    from importlib.metadata import entry_points

    entries = [entry.name for entry in entry_points(group="lmms_eval.models")]
    needed = [
        preflight.package("lmms_eval", SETUP),
        preflight.Need("this project's model in lmms-eval (an entry point)", MODEL_ID in entries, SETUP),
        preflight.model_with_config(args.model, "RUN/model of understanding/train.py, or a hub id"),
    ]
    if args.questions is not None:
        return [*needed, preflight.file(args.questions, "the questions", "a file of LLaVA conversations")]
    return [*needed, data_sets([name for name in args.tasks if name in PAPER_TASKS])]


def data_sets(tasks: list[str]) -> preflight.Need:
    """The tasks' data as the `datasets` library keeps them once they have been used; or a hub that can give them."""
    from datasets import config

    def plain(name: str) -> str:  # `MMBench` is kept as `mm_bench`
        return name.replace("_", "").lower()

    home = Path(config.HF_DATASETS_CACHE)
    kept = {plain(path.name) for path in home.iterdir()} if home.is_dir() else set()
    absent = [task for task in tasks if plain(PAPER_TASKS[task].dataset.replace("/", "___")) not in kept]
    fetch = f"run this command with the network, with --tasks {','.join(absent)} --limit 1, after `hf auth login`;"
    where = [f"{task}: {PAPER_TASKS[task].dataset}" for task in absent]
    return preflight.Need(
        f"the data of {', '.join(absent)}",
        not absent or preflight.hub_answers(),
        "\n".join(["from the hub:", *where, fetch, f"then copy the cache here: {home}"]),
    )


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    preflight.require("lmms-eval", needs(args))
    claim_output(args)

    from common import dist
    from evals.lmms.session import Session

    session = Session(
        args.model,
        args.output,
        limit=args.limit,
        batch_size=args.batch_size,
        device=args.device,
        attn_implementation=args.attn_implementation,
    )
    if args.questions is not None:
        found = [session.ask(args.questions, args.images or args.questions.parent)]
    else:
        found = [session.run(name, args.seedbench_videos) for name in args.tasks]
    if dist.is_main():
        settings = {
            name: getattr(args, name)
            for name in ("limit", "batch_size", "attn_implementation", "device", "seedbench_videos")
        }
        report(
            args.output,
            found,
            args.questions,
            model={"source": args.model, "weights_sha256": session.weights},
            settings=settings,
            paper_row=args.paper_row,
        )


def report(
    output: Path,
    found: list[TaskResult],
    questions: Path | None,
    *,
    model: dict[str, Any],
    settings: dict[str, Any],
    paper_row: str | None,
) -> None:
    """results.json and the table.

    Args:
        questions: the file that was asked; None: tasks of the framework's.
        model, settings: as in `Results`.

    Raises:
        UserError: a question went unanswered.
    """
    import hashlib

    from common import dist
    from evals.result_table import finish
    from evals.results import Results

    if questions is not None:
        source, asked = str(questions), questions.read_bytes()
    else:
        source = ", ".join(task.name for task in found)
        asked = "".join(task.asked_sha256 for task in found).encode()
    finish(
        output,
        Results(
            benchmark="understanding" if questions is None else "questions",
            protocol="lmms-eval" if questions is None else "lmms-eval, exact answers",
            scores={name: score for task in found for name, score in task.scores.items()},
            expected=sum(task.expected for task in found),
            scored=sum(task.scored for task in found),
            partial=any(task.partial for task in found),
            settings={"tasks": [task.name for task in found], **settings},
            model=model,
            prompt_set={"source": source, "sha256": hashlib.sha256(asked).hexdigest()},
            seconds=round(sum(task.seconds for task in found), 1),
            processes=dist.world(),
            score_counts={name: count for task in found for name, count in task.counted.items()},
            fingerprints={name: task.fingerprint for task in found for name in task.scores},
            paper_row=paper_row,
            details=details(found, settings),
        ),
        notes(found, settings, output),
    )


def details(found: list[TaskResult], settings: dict[str, Any]) -> dict[str, Any]:
    """What results.json says of each task beside its scores."""
    return {
        "lmms_eval_task_versions": {task.name: task.version for task in found},
        "asked_sha256": {task.name: task.asked_sha256 for task in found},
        "answers_of_former_runs": {task.name: task.kept for task in found},
        "longer_than_the_context": {task.name: task.too_long for task in found},
        "left_out": {task.name: videos_left_out(task, settings) for task in found},
    }


def videos_left_out(task: TaskResult, settings: dict[str, Any]) -> int:
    return SEED_BENCH_VIDEOS if task.name == SEED_BENCH and not settings["seedbench_videos"] else 0


def notes(found: list[TaskResult], settings: dict[str, Any], output: Path) -> list[str]:
    """What a reader of the table should know about the answers."""
    kept, scored = sum(task.kept for task in found), sum(task.scored for task in found)
    lines = [f"answers: {kept:,} of former runs, {scored - kept:,} new"]
    for task in found:
        if task.too_long:
            lines.append(
                f"{task.name}: {task.too_long:,} questions do not fit the model's context and count as wrong"
            )
        if videos := videos_left_out(task, settings):
            lines.append(f"{task.name}: {videos:,} questions about videos were not asked")
    lines.append(f"every question with its answer: {output / 'samples'}")
    return lines


if __name__ == "__main__":
    run_cli(main)
