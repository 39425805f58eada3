"""A run that goes back to its checkpoint, and who was in its bad steps; the tokenizer's: tokenizer/test_guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
import tiny_post_training

import generation.train
import post_training.train
import understanding.train
from common.training.guard import Guard
from common.training.records import read_records

QUIET = (
    "logging.log_every=1",
    "logging.picture_every=99",
    "logging.evaluate_every=99",
    "checkpoint.save_every=2",
    "guard.max_in_a_row=2",
    "guard.rollback=true",
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded")
    tiny.write_understanding_shelf(folder)
    tiny_post_training.write_shelf(folder / "drawn")
    return tiny_generator.write_shelf(folder)


def train(job: str, shelf: Path, run: Path, steps: int) -> None:
    if job == "understanding":
        return understanding.train.train(
            tiny.understanding_recipe(shelf, run, *QUIET, f"epochs={steps // 3}")
        )
    if job == "post_training":
        drawn = shelf / "drawn"
        return post_training.train.train(tiny_post_training.recipe(drawn, run, *QUIET, f"steps={steps}"))
    quiet = (*QUIET, "samples.prompts=[]", "evaluation.source=null", f"steps={steps}")
    return generation.train.train(tiny_generator.recipe(shelf, run, *quiet))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "named"),
    [("understanding", "captions.json: "), ("generation", ".png"), ("post_training", "a photo of ")],
)
def test_bad_data_is_named_and_left_out_once(
    job: str, named: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Steps 3 and 4 are bad; the run goes back to step 2 and takes the samples that come after those of step 4."""
    seen: list[tuple[int, list[str]]] = []
    see, veto, bad = Guard.see, Guard.veto, set[int]()

    def remember(self: Guard, keys: Any, name: Any = str) -> None:
        keys = list(keys)
        seen.append((self.step, [name(key) for key in keys]))
        see(self, keys, name)

    def poison(self: Guard, engine: Any, loss: Any) -> Any:
        poisoned = self.step in bad and not self.rollbacks
        return veto(self, engine, loss) * (float("nan") if poisoned else 1.0)

    monkeypatch.setattr(Guard, "see", remember)
    monkeypatch.setattr(Guard, "veto", poison)
    train(job, shelf, tmp_path / "long", 9)
    order = [keys for _, keys in seen]
    seen.clear()
    bad |= {3, 4}
    capsys.readouterr()
    train(job, shelf, tmp_path / "run", 6)
    turns = len(order) // 9
    assert [step for step, _ in seen] == [step for step in (1, 2, 3, 4, 3, 4, 5, 6) for _ in range(turns)]
    assert [keys for _, keys in seen] == order[: len(seen)]
    said = capsys.readouterr().out
    assert "2 bad steps in a row" in said and named in said.split("samples on rank 0")[1]
    last = read_records(tmp_path / "run", "train")[-1]
    assert (last["step"], last["skipped_steps"], last["rollbacks"]) == (6, 2, 1)
