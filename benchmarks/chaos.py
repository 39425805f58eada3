"""Kill -9 at random, again and again: what is lost?

    python -m benchmarks.chaos --out runs/chaos                       three trainers, 50 kills each
    python -m benchmarks.chaos --out runs/chaos --torchrun            5 more each, which torchrun answers with a restart

Each trainer trains a tiny recipe in two processes, 40 steps that are saved every 4. Once it is left alone; then it is
killed over and over, one rank or both, at a random moment or inside a save, and started again until it ends. Held
against the run that was left alone:

    lost, repeated    samples that some step of the surviving history was not given, or was given beside its own, by a
                      ledger that stands between the data and the trainer (`killing.jobs`)
    corrupt           folders under a checkpoint's name that do not hold what their manifest says, after each kill
    unequal           files of the result that differ in a byte

A kill counts as inside a save where the folder that was being written is still there afterwards. With the same
`--out`, a broken-off benchmark goes on with the next run.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.forked_runs import ROOT, ForkServer
from benchmarks.killing.evidence import WORLD, Result, compare, corrupt_checkpoints, ledger_of
from benchmarks.killing.jobs import JOBS
from benchmarks.killing.lives import LIFE, Lives, partials, wait_for
from common.command import described_parser, positive
from common.errors import UserError, run_cli
from common.files import write_json

KILLS_A_RUN = 10


def killed_once(lives: Lives, rng: random.Random) -> bool:
    """Wait for a moment drawn at random, then kill. Whether the life was still there to be killed."""
    ranks, then = rng.choice(([0], [1], [0, 1])), rng.random() * 0.5
    if rng.random() < 0.6:
        before, saves = partials(lives.run), rng.choice((1, 1, 2))
        seen: set[str] = set()

        def saving() -> bool:
            seen.update(partials(lives.run) - before)
            return len(seen) >= saves

        came = wait_for(lives, saving)
        time.sleep(rng.random() * 0.05)
    else:
        target = rng.randrange(0, 2 * 12)
        came = wait_for(lives, lambda: lives.given() >= target, poll=0.02)
        time.sleep(rng.random() * 0.2)
    if came and not lives.ended():
        lives.kill(ranks, then)
        return True
    return False


def tormented(result: Result, lives: Lives, kills: int, rng: random.Random) -> None:
    """One run, killed up to so many times, and then let to end."""
    lives.start()
    while result.kills < kills and killed_once(lives, rng):
        result.kills += 1
        left = partials(lives.run)
        result.inside_saves += bool(left)
        bad = corrupt_checkpoints(lives.run / "checkpoints")
        result.corrupt += len(bad)
        result.told += bad
        lives.start()
    wait_for(lives, lives.ended, poll=0.1)
    result.lives = lives.number
    if not (lives.run / "model").is_dir():
        raise UserError(f"{lives.run}: ended without a model; see its logs")


def left_alone(job: str, out: Path, server: ForkServer) -> Path:
    run = out / job / "alone"
    if not (run / "model").is_dir():
        lives = Lives(job, out / "world", run, server)
        for path in (run, *run.parent.glob("alone*")):
            shutil.rmtree(path, ignore_errors=True)
        for rank in range(WORLD):
            ledger_of(run, rank).unlink(missing_ok=True)
        tormented(Result(job, "alone", "fork"), lives, 0, random.Random(0))
    return run


def torment(
    job: str, out: Path, server: ForkServer, kills: int, torchrun: bool, seed: int
) -> Iterator[Result]:
    """Runs until there were enough kills; those that a former call finished are not done again."""
    alone, done = left_alone(job, out, server), 0
    for number in range(10 * kills):
        if done >= kills:
            return
        run = out / job / f"{'torchrun' if torchrun else 'run'}_{number}"
        finished = run.with_name(f"{run.name}.json")
        if finished.is_file():
            result = Result(**json.loads(finished.read_text(encoding="utf-8")))
        else:
            shutil.rmtree(run, ignore_errors=True)
            for rank in range(WORLD):
                ledger_of(run, rank).unlink(missing_ok=True)
            result = Result(job, run.name, "torchrun" if torchrun else "fork")
            lives = Lives(job, out / "world", run, None if torchrun else server)
            try:
                rng = random.Random(f"{seed} {job} {run.name}")
                tormented(result, lives, min(KILLS_A_RUN, kills - done), rng)
            finally:
                lives.end()
            compare(result, run, alone)
            write_json(finished, asdict(result))
        done += result.kills
        yield result


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="which trainers (default: all)")
    parser.add_argument("--kills", type=positive, help="for each trainer (default: 50, or 5 with --torchrun)")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument(
        "--torchrun", action="store_true", help="kill what torchrun started, which starts it again"
    )
    arguments = parser.parse_args()
    kills = arguments.kills or (5 if arguments.torchrun else 50)
    out = arguments.out.resolve()
    results = []
    with ForkServer(
        [f"{job}.train" for job in JOBS] + ["benchmarks.killing.jobs", "deepspeed"], [ROOT / "tests"]
    ) as server:
        if not (out / "world" / "generation.yaml").is_file():
            writing = server.start(
                "benchmarks.killing.jobs:write_world", 1, out, {"folder": str(out / "world")}
            )
            if writing.wait(LIFE) != [0]:
                raise UserError(f"{out}/rank0.log: the data could not be written")
        for job in arguments.jobs:
            for result in torment(job, out, server, kills, arguments.torchrun, arguments.seed):
                results.append(result)
                print(json.dumps(asdict(result)), flush=True)
    say_table(results)
    if any(r.lost or r.repeated or r.misplaced_steps or r.corrupt or r.unequal for r in results):
        sys.exit(1)


def say_table(results: list[Result]) -> None:
    columns = ("runs", "lives", "kills", "inside_saves", "lost", "repeated", "corrupt", "unequal")
    print("| trainer | " + " | ".join(columns).replace("_", " ") + " |")
    print("|---" * (len(columns) + 1) + "|")
    for job in dict.fromkeys(result.job for result in results):
        own = [asdict(result) | {"runs": 1} for result in results if result.job == job]
        print(f"| {job} | " + " | ".join(str(sum(result[name] for result in own)) for name in columns) + " |")


if __name__ == "__main__":
    run_cli(main)
