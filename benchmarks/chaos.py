"""Kill -9 at random, again and again: what is lost?

    python -m benchmarks.chaos --out runs/chaos                       three trainers, 50 kills each
    python -m benchmarks.chaos --out runs/chaos --torchrun            5 more each, which torchrun answers with a restart

Each trainer trains a tiny recipe in two processes, 40 steps that are saved every 4. Once it is left alone; then it is
killed over and over, one rank or both, at a random moment or inside a save, and started again until it ends. Held
against the run that was left alone:

    lost, repeated    samples that some step of the surviving history was not given, or was given beside its own, by a
                      ledger that stands between the data and the trainer (`chaos_jobs`)
    corrupt           folders under a checkpoint's name that do not hold what their manifest says, after each kill
    unequal           files of the result that differ in a byte

A kill counts as inside a save where the folder that was being written is still there afterwards. With the same
`--out`, a broken-off benchmark goes on with the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_jobs import JOBS
from benchmarks.forked_runs import ForkedRun, ForkServer
from common.command import described_parser, positive
from common.errors import UserError, run_cli
from common.files import write_json

ROOT = Path(__file__).parents[1]
WORLD = 2
MICRO = 2  # micro-batches a step: a global batch of 4, one sample at a time on each rank
LIFE = 300.0  # seconds until a life that neither ends nor is killed counts as hanging
KILLS_A_RUN = 10
TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    str(WORLD),
    "--max-restarts",
    "9",
)


@dataclass
class Result:
    """What came of one run and its kills."""

    job: str
    run: str
    launcher: str
    kills: int = 0
    inside_saves: int = 0
    lives: int = 0
    lost: int = 0
    repeated: int = 0
    misplaced_steps: int = 0
    corrupt: int = 0
    unequal: int = 0
    told: list[str] = field(default_factory=list)


# --- What must hold


def history(run: Path, rank: int) -> list[list[str]]:
    """The micro-batches that the surviving weights of a rank have learned from, in order."""
    given: list[list[str]] = []
    begin, fresh = 0, True
    for line in ledger_of(run, rank).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "life" in entry:
            begin, fresh = 0, True
        elif "resumed" in entry:
            begin = entry["resumed"]
        else:
            if fresh:  # what came after the step that this life went on from is undone
                if len(given) < begin * MICRO:
                    given += [["?"]] * (begin * MICRO - len(given))
                del given[begin * MICRO :]
                fresh = False
            given.append(entry["samples"])
    return given


def ledger_of(run: Path, rank: int) -> Path:
    return run.with_name(f"{run.name}_rank{rank}.jsonl")


def compare(result: Result, run: Path, alone: Path) -> None:
    """Samples and weights against the run that was left alone."""
    for rank in range(WORLD):
        found, expected = history(run, rank), history(alone, rank)
        result.misplaced_steps += sum(one != other for one, other in zip(found, expected, strict=False))
        given, due = (Counter(s for batch in batches for s in batch) for batches in (found, expected))
        result.lost += (due - given).total()
        result.repeated += (given - due).total()
    theirs, ours = files_in(alone / "model"), files_in(run / "model")
    result.unequal += sum(theirs.get(name) != ours.get(name) for name in theirs.keys() | ours.keys())


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def corrupt_checkpoints(folder: Path) -> list[str]:
    """Those that stand there by name and are not what they say; by a reading of our own."""
    found = []
    for path in sorted(folder.glob("step_*")):
        try:
            listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
            sound = {name: entry["sha256"] for name, entry in listed.items()} == {
                name: digest for name, digest in files_in(path).items() if name != "manifest.json"
            }
        except (OSError, ValueError, KeyError) as error:
            found.append(f"{path.name}: {error!r}")
        else:
            if not sound:
                found.append(f"{path.name}: files differ from the manifest")
    return found


# --- What happens


class Lives:
    """Starts and kills the processes of one run, by forks or by torchrun."""

    def __init__(self, job: str, world: Path, run: Path, server: ForkServer | None) -> None:
        self.job, self.run, self.server, self.number = job, run, server, 0
        self.recipe = world / f"{job}.yaml"
        self.forked: ForkedRun | None = None
        self.launched: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = {"job": self.job, "recipe": str(self.recipe), "output": str(self.run)}
        if self.server is not None:
            self.forked = self.server.start(
                "benchmarks.chaos_jobs:run", WORLD, self.run.with_name(f"{self.run.name}_logs"), arguments,
                {"CHAOS_LIFE": str(self.number)},
            )  # fmt: skip
        elif self.launched is None:
            with self.run.with_name(f"{self.run.name}.log").open("ab") as log:
                self.launched = subprocess.Popen(
                    [*TORCHRUN, "-m", "benchmarks.chaos_jobs", *arguments.values()],
                    cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
        self.number += 1

    def pids(self) -> list[int]:
        """Of this life's ranks; fewer than all where some have not begun."""
        if self.forked is not None:
            return self.forked.pids
        found = []
        for rank in range(WORLD):
            births = [entry for entry in self._entries(rank) if entry.get("life") == self.number - 1]
            found += [entry["pid"] for entry in births]
        return found

    def ended(self) -> bool:
        if self.forked is not None:
            return not any(process.is_alive() for process in self.forked.processes)
        assert self.launched is not None
        return self.launched.poll() is not None

    def given(self) -> int:
        """Micro-batches that rank 0 was given in this life."""
        entries = self._entries(0)
        births = [place for place, entry in enumerate(entries) if "life" in entry]
        if not births or entries[births[-1]]["life"] != self.number - 1:
            return -1
        return sum("samples" in entry for entry in entries[births[-1] :])

    def kill(self, ranks: list[int], then: float) -> None:
        """Kill -9; the others follow, as a launcher sees to it. torchrun does that itself, and starts anew."""
        pids = self.pids()
        for rank in ranks:
            if rank < len(pids):
                with suppress(ProcessLookupError):
                    os.kill(pids[rank], signal.SIGKILL)
        if self.forked is not None:
            time.sleep(then)
            self.forked.end()

    def end(self) -> None:
        if self.forked is not None:
            self.forked.end()
        elif self.launched is not None and self.launched.poll() is None:
            os.killpg(self.launched.pid, signal.SIGKILL)

    def _entries(self, rank: int) -> list[dict[str, Any]]:
        ledger = ledger_of(self.run, rank)
        if not ledger.is_file():
            return []
        lines = ledger.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]


def partials(run: Path) -> set[str]:
    with suppress(OSError):
        return {path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".step_")}
    return set()


def wait_for(lives: Lives, moment: Callable[[], bool], poll: float = 0.002) -> bool:
    """Whether the moment came before the life ended.

    Raises:
        UserError: neither did.
    """
    end = time.monotonic() + LIFE
    while time.monotonic() < end:
        if moment():
            return True
        if lives.ended():
            return False
        time.sleep(poll)
    lives.end()
    raise UserError(f"{lives.run}: life {lives.number} hangs; see its logs")


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
        [f"{job}.train" for job in JOBS] + ["benchmarks.chaos_jobs", "deepspeed"], [ROOT / "tests"]
    ) as server:
        if not (out / "world" / "generation.yaml").is_file():
            writing = server.start(
                "benchmarks.chaos_jobs:write_world", 1, out, {"folder": str(out / "world")}
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
