"""Workers of an extraction are killed at random, again and again: what is lost, and what is done twice?

    python -m benchmarks.extraction_chaos --out runs/extraction_chaos         100 kills

Two to four workers, one of them ten times slower than the others, encode a set of tars and a folder with a tiny VQRAE.
One at a time is killed (kill -9) at a random moment, or stopped for longer than its lease lasts and then let go on;
for one that was killed another starts. Held against an extraction by one worker that was left alone:

    lost, repeated    pictures whose codes a recipe does not read, or reads twice
    unequal           pictures with other codes or another caption, and files that differ in a byte
    left              files of no source, and leases, that are there at the end
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.forked_runs import ROOT, ForkedRun, ForkServer
from common.command import described_parser, positive
from common.errors import UserError, run_cli
from common.files import write_json

TARS, IN_A_TAR, IN_A_FOLDER, BATCH = 40, 40, 160, 8
STALE = 3  # seconds
PAUSE, SLOWER = 0.25, 10  # seconds that a batch takes at least, and how much longer for the slow worker
KILLS_A_RUN = 17
LONGEST = 300.0  # seconds until a run that is not disturbed any more counts as hanging
SLOW, QUICK = "slow", "quick"


@dataclass
class Result:
    """One disturbed run."""

    workers: int = 0
    kills: int = 0
    holding: int = 0
    """Of the killed, those that had a lease."""
    stops: int = 0
    pictures: int = 0
    lost: int = 0
    repeated: int = 0
    unequal: int = 0
    left: int = 0


def write_world(world: str) -> None:
    """Pictures with captions, some of them torn, and what encodes them."""
    import image_sets  # type: ignore[import-not-found]
    import tiny  # type: ignore[import-not-found]
    import tiny_generator  # type: ignore[import-not-found]

    root = Path(world)
    tiny_generator.write_shelf(root)
    image_sets.make_shards(root / "web", [IN_A_TAR] * TARS)
    photos = tiny.write_pictures(root / "photos", IN_A_FOLDER)
    for number in range(IN_A_FOLDER):
        (photos / f"{number:03d}.txt").write_text(f"photo {number}")
    torn = photos / "100.png"
    torn.write_bytes(torn.read_bytes()[:80])


def recipe_of(world: str, codes: str) -> Any:
    import tiny_generator  # type: ignore[import-not-found]

    sources = [
        {"kind": "shards", "path": f"{world}/web"},
        {"kind": "folder", "path": f"{world}/photos", "captions": ".txt"},
    ]
    overrides = (f"data.sources={json.dumps(sources)}", f"data.codes={codes}", "data.max_corrupt_share=0.1")
    return tiny_generator.recipe(Path(world), Path(codes).parent / "run", *overrides)


def work(world: str, codes: str, pause: float) -> None:
    """The body of one worker; a batch takes it at least `pause` seconds."""
    from generation.code_encoder import CodeEncoder
    from generation.extract_codes import extract

    original = CodeEncoder.__call__

    def slowed(self: CodeEncoder, pixels: Any) -> Any:
        time.sleep(pause)
        return original(self, pixels)

    CodeEncoder.__call__ = slowed  # type: ignore[method-assign]
    extract(recipe_of(world, codes), BATCH, IN_A_TAR, stale=STALE)


class Fleet:
    """The workers of one run."""

    def __init__(self, server: ForkServer, world: Path, run: Path) -> None:
        self.server, self.world, self.run = server, world, run
        self.started = 0
        self.workers: dict[ForkedRun, str] = {}

    @property
    def codes(self) -> Path:
        return self.run / "codes"

    def add(self, pace: str) -> None:
        arguments = {
            "world": str(self.world),
            "codes": str(self.codes),
            "pause": PAUSE * (SLOWER if pace == SLOW else 1),
        }
        folder = self.run / f"worker_{self.started}"
        worker = self.server.start("benchmarks.extraction_chaos:work", 1, folder, arguments)
        self.workers[worker] = pace
        self.started += 1

    def living(self) -> list[ForkedRun]:
        """Raises `UserError` for one that failed; those that have ended well, or were killed, are forgotten."""
        for worker in list(self.workers):
            (code,) = worker.wait(0)
            if code is not None:
                del self.workers[worker]
            if code not in (None, 0, -signal.SIGKILL):
                raise UserError(f"{worker.logs[0]}: a worker ended with {code}: {worker.said(0)[-400:]}")
        return list(self.workers)

    def holds(self, worker: ForkedRun) -> bool:
        """Whether it has a lease."""
        for path in (self.codes / "leases").glob("[!.]*"):
            try:
                if f"-{worker.pids[0]}-" in path.read_text(encoding="utf-8"):
                    return True
            except OSError:
                continue
        return False


def disturbed(fleet: Fleet, size: int, kills: int, rng: random.Random) -> Result:
    result = Result()
    for pace in [SLOW] + [QUICK] * (size - 1):
        fleet.add(pace)
    while result.kills < kills:
        time.sleep(rng.random() * 1.5)
        living = fleet.living()
        if len(living) < size:  # one has found that all is done
            break
        begun = [worker for worker in living if "image/s" in worker.said(0)]
        if not begun and rng.random() < 0.9:  # most of the time, those that are at work
            continue
        victim = rng.choice(begun or living)
        if rng.random() < 0.15:
            victim.signal(signal.SIGSTOP)
            time.sleep(STALE + 1)
            victim.signal(signal.SIGCONT)
            result.stops += 1
            continue
        holding, pace = fleet.holds(victim), fleet.workers[victim]
        victim.signal(signal.SIGKILL)
        if victim.wait(LONGEST) == [-signal.SIGKILL]:
            result.kills += 1
            result.holding += holding
            fleet.add(pace)
    for worker in fleet.living():
        if worker.wait(LONGEST) != [0]:
            raise UserError(f"{worker.logs[0]}: a worker did not end: {worker.said(0)[-400:]}")
    result.workers = fleet.started
    return result


def samples(world: Path, codes: Path) -> list[tuple[int, str, str | None, bytes]]:
    """Source, key, caption and codes of all that a recipe reads."""
    from generation.codes.library import CodeSource

    found = []
    for number, stated in enumerate(recipe_of(str(world), str(codes)).data.sources):
        source = CodeSource.of(codes, stated)
        for index in range(len(source)):
            sample = source.read(index)
            found.append((number, sample.key, sample.caption, sample.codes.tobytes()))
    return found


def judge(world: str, codes: str, alone: str, target: str) -> None:
    """Hold the codes of a run against those of the undisturbed one, and write down how they differ."""
    from generation.codes.record import unused_files

    roots = Path(codes), Path(alone)
    mine, theirs = (samples(Path(world), root) for root in roots)
    counts, expected = (Counter(row[:2] for row in rows) for rows in (mine, theirs))
    one, two = ({path.relative_to(root): path.read_bytes() for path in _results(root)} for root in roots)
    unequal = sum(one.get(name) != two.get(name) for name in one.keys() | two.keys())
    found = {
        "pictures": len(theirs),
        "lost": len(expected.keys() - counts.keys()),
        "repeated": sum(count - 1 for count in counts.values()),
        "unequal": len(set(mine) ^ set(theirs)) + unequal,
        "left": len(unused_files(roots[0])) + len(list((roots[0] / "leases").glob("[!.]*"))),
    }
    write_json(Path(target), found)


def _results(root: Path) -> Iterator[Path]:
    return (path for kind in ("shards", "captions", "sources") for path in (root / kind).glob("[!.]*"))


def torment(server: ForkServer, out: Path, kills: int, seed: int) -> Iterator[Result]:
    """Runs until there were enough kills."""
    world, done = out / "world", 0
    writing = server.start("benchmarks.extraction_chaos:write_world", 1, out, {"world": str(world)})
    if writing.wait(LONGEST) != [0]:
        raise UserError(f"{out}/rank0.log: the pictures could not be written")
    alone = Fleet(server, world, out / "alone")
    alone.add(QUICK)
    for worker in alone.living():
        if worker.wait(LONGEST) != [0]:
            raise UserError(
                f"{worker.logs[0]}: the undisturbed extraction did not end: {worker.said(0)[-400:]}"
            )
    for number in range(10 * kills):
        if done >= kills:
            return
        fleet = Fleet(server, world, out / f"run_{number}")
        rng = random.Random(f"{seed} {number}")
        result = disturbed(fleet, 2 + number % 3, min(KILLS_A_RUN, kills - done), rng)
        verdict = out / f"run_{number}.json"
        paths = {"world": world, "codes": fleet.codes, "alone": alone.codes, "target": verdict}
        arguments = {name: str(path) for name, path in paths.items()}
        if server.start("benchmarks.extraction_chaos:judge", 1, fleet.run, arguments).wait(LONGEST) != [0]:
            raise UserError(f"{fleet.run}/rank0.log: the codes could not be compared")
        result = replace(result, **json.loads(verdict.read_text(encoding="utf-8")))
        done += result.kills
        yield result


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go; emptied first")
    parser.add_argument("--kills", type=positive, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=14)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    results = []
    preload = [
        "benchmarks.extraction_chaos",
        "generation.extract_codes",
        "generation.codes.worker",
        "tiny_generator",
    ]
    started = time.monotonic()
    with ForkServer([*preload, "generation.assemble", "image_sets"], [ROOT / "tests"]) as server:
        for result in torment(server, out, arguments.kills, arguments.seed):
            results.append(result)
            print(json.dumps(asdict(result)), flush=True)
    totals = {name: sum(asdict(result)[name] for result in results) for name in asdict(Result())}
    columns = {"runs": len(results), **totals}
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    print("| " + " | ".join(f"{value:,}" for value in columns.values()) + " |")
    print(f"{time.monotonic() - started:.0f} s on {os.cpu_count()} cores")
    if any(totals[name] for name in ("lost", "repeated", "unequal", "left")):
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)
