"""The trainer as a whole, on a tiny generator: what it learns, writes, resumes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pair_jobs
import pytest
import tiny_post_training as tiny
import torch
from PIL import Image

from common.errors import UserError
from common.training.command import RunOptions
from common.training.records import read_records
from generation.model_folder import load_generator
from generation.sampler import Sampler
from post_training.policy import Policy
from post_training.train import train
from vqrae import cli

GUIDED = ["rollouts.cfg_scale=1.5", "samples.sampling.cfg_scale=1.5"]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_shelf(tmp_path_factory.mktemp("post_training"))


def run(shelf: Path, output: Path, *overrides: str, **scorers: Any) -> list[dict[str, Any]]:
    """A run rewarded by how red pictures are, or by `scorers`; its lines."""
    with tiny.rewarded(**scorers):
        train(tiny.recipe(shelf, output, *overrides))
    return read_records(output, "train")


def weights(output: Path) -> str:
    return pair_jobs.digest(load_generator(str(output / "model")).model)


def test_pictures_get_what_is_rewarded(shelf: Path, tmp_path: Path) -> None:
    lines = run(shelf, tmp_path / "run", "steps=10", "rollouts.group=8", "batch.micro_size=8")
    assert lines[-1]["reward"] > lines[0]["reward"] + 0.05
    seen = {
        "reward",
        "reward_red",
        "reward_std",
        "equal_groups",
        "diversity",
        "entropy",
        "clip_share",
        "ratio",
        "loss",
    }
    seen |= {"sampler_gap", "grad_norm", "lr", "rollouts_per_second", "updates_per_second"}
    seen |= {"draw_share", "score_share", "update_share", "memory_gib", "skipped_steps"}
    assert seen <= set(lines[0]) and "kl" not in lines[0]  # without its weight no reference is held
    assert lines[0]["ratio"] == 1 and lines[0]["clip_share"] == 0 and lines[0]["sampler_gap"] < 1e-5
    assert all(line["sampler_gap"] < 1e-5 for line in lines)  # the sampler follows
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "recipes", "run.json", "metrics.jsonl", "checkpoints", "model"} <= left
    result = load_generator(str(tmp_path / "run" / "model"))
    assert result.sampling.cfg_scale == 1.0 and result.vocabulary.grid == (4, 4)


def test_ratio_is_one_and_divergence_zero_on_the_first_step(shelf: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16_autocast", "bf16"):
        lines = run(
            shelf,
            tmp_path / precision,
            *GUIDED,
            "grpo={kl: 0.1, entropy: 0.01}",
            "steps=3",
            f"engine.precision={precision}",
        )
        assert (lines[0]["ratio"], lines[0]["kl"], lines[0]["clip_share"]) == (1, 0, 0), precision
        assert lines[-1]["ratio"] == 1 and lines[-1]["kl"] > 0, precision


def test_several_updates_move_the_ratio(shelf: Path, tmp_path: Path) -> None:
    updates = ["updates_per_rollout=3", "steps=2", "optimizer.lr=3e-2"]
    lines = run(shelf, tmp_path / "run", *updates)
    assert lines[0]["ratio"] != 1 and lines[0]["clip_share"] > 0
    tight = run(shelf, tmp_path / "tight", *updates, "grpo={clip: 0.01}")
    assert tight[0]["clip_share"] > lines[0]["clip_share"]


@pytest.mark.parametrize("method", ["grpo", "rejection", "dpo"])
def test_a_resumed_run_equals_an_uninterrupted_one(method: str, shelf: Path, tmp_path: Path) -> None:
    overrides = [*tiny.METHODS[method], *GUIDED, "updates_per_rollout=2"]
    overrides += ["samples.prompts=[a red circle]", "logging.picture_every=2", tiny.held_out(shelf)]
    overrides += ["logging.evaluate_every=2"]
    if method == "grpo":
        overrides.append("grpo={kl: 0.1, entropy: 0.01, similarity: true, advantage: mean}")
    config = tiny.recipe(shelf, tmp_path / "resumed", *overrides)
    with tiny.judged(tiny.Channel(1)):
        whole = run(shelf, tmp_path / "whole", *overrides)
        original, calls = Policy.forward, []

        def stop_in_step_3(self: Policy, *inputs: Any) -> Any:
            calls.append(self.training)
            if sum(calls) == 2 * 2 * len(calls_of_a_step(method)) + 1:
                raise KeyboardInterrupt
            return original(self, *inputs)

        with (
            mock.patch.object(Policy, "forward", stop_in_step_3),
            tiny.rewarded(),
            pytest.raises(KeyboardInterrupt),
        ):
            train(config)
        again = run(shelf, tmp_path / "resumed", *overrides)
    times = {
        "rollouts_per_second",
        "updates_per_second",
        "draw_share",
        "score_share",
        "update_share",
        "memory_gib",
    }
    for before, after in zip(whole, again, strict=True):
        assert {k: v for k, v in before.items() if k not in times} == {
            k: v for k, v in after.items() if k not in times
        }
    evaluations = [read_records(tmp_path / name, "evaluation") for name in ("whole", "resumed")]
    assert evaluations[0] == evaluations[1] and [line["step"] for line in evaluations[0]] == [0, 2, 4]
    assert {"judge", "judge_colors", "judge_counting", "diversity"} <= set(evaluations[0][0])
    assert weights(tmp_path / "whole") == weights(tmp_path / "resumed")
    with Image.open(tmp_path / "resumed" / "pictures" / "step_00000004.png") as page:
        assert page.width > 2 * 96


def calls_of_a_step(method: str) -> range:
    """Micro-batches of an update."""
    return range({"grpo": 4, "rejection": 4, "dpo": 4}[method])


def test_its_siblings_please_their_reward_too(shelf: Path, tmp_path: Path) -> None:
    for method in ("rejection", "dpo"):
        lines = run(shelf, tmp_path / method, *tiny.METHODS[method], "steps=12", "optimizer.lr=2e-2")
        assert lines[-1]["reward"] > lines[0]["reward"] + 0.03, method
    assert {"preferred", "margin", "kl"} <= set(lines[0])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_reward_that_teaches_nothing_is_said(
    value: float, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """UniRL's trap: everything else looks healthy."""
    lines = run(shelf, tmp_path / "run", "steps=2", "logging.log_every=2", flat=tiny.Constant(value))
    said = capsys.readouterr().out
    how = "0, always" if value == 0 else "0.5, the same for all"
    assert f"warning: reward flat: every picture of steps 1 to 2 got {how}: it teaches nothing" in said
    assert "warning: equal_groups 1" in said and "warning: grad_norm 0" in said
    assert lines[0]["grad_norm"] == 0 and lines[0]["equal_groups"] == 1
    beside = {"flat": tiny.Constant(value), "red": tiny.Channel()}
    lines = run(shelf, tmp_path / "two", "steps=1", **beside)
    said = capsys.readouterr().out
    assert "warning: reward flat" in said and said.count("warning: reward") == 1
    assert "warning: grad_norm" not in said
    assert lines[0]["reward"] == pytest.approx(
        (lines[0]["reward_flat"] + lines[0]["reward_red"]) / 2, rel=1e-4
    )


def test_a_stale_sampler_is_seen(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(Sampler, "refresh", lambda *_: None):
        lines = run(shelf, tmp_path / "run", "steps=3", "optimizer.lr=3e-2")
    assert lines[0]["sampler_gap"] < 1e-5 < 0.2 < lines[-1]["sampler_gap"]
    assert "it draws from other weights" in capsys.readouterr().out


def test_training_stops_where_only_the_reward_is_pleased(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The judge likes what is not red."""

    class Opposite(tiny.Channel):
        identity = {"name": "opposite", "by": "opposite"}

        def __init__(self) -> None:
            self.channel = 0

        def score(self, prompt: Any, pictures: Any) -> list[float]:
            return [1 - one for one in super().score(prompt, pictures)]

    overrides = [tiny.held_out(shelf, "stop_after_falls: 2"), "steps=200", "checkpoint.best=judge"]
    overrides += ["logging.evaluate_every=2", "rollouts.group=8", "logging.log_every=2"]
    with tiny.judged(Opposite()):
        lines = run(shelf, tmp_path / "run", *overrides)
        said = capsys.readouterr().out
        stopped = lines[-1]["step"]
        assert (
            stopped < 60 and "held_out.stop_after_falls: the reward rose and the held-out judge fell" in said
        )
        again = run(shelf, tmp_path / "run", *overrides)
    assert again[-1]["step"] == stopped and "stop_after_falls" in capsys.readouterr().out  # it stays stopped
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    judged = [line["judge"] for line in read_records(tmp_path / "run", "evaluation")]
    assert judged[-1] < judged[-2] < judged[-3]
    assert f"step_{stopped:08d}" in (tmp_path / "run" / "checkpoints" / "latest").read_text()
    assert f"step_{stopped:08d}" not in (tmp_path / "run" / "checkpoints" / "best").read_text()


def test_an_unfinished_run_is_exported(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair_jobs.stopped(2):
        run(shelf, tmp_path / "run", "engine.precision=bf16")
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr("sys.argv", ["vqrae", "export", str(tmp_path / "run")])
    cli.main()
    exported = load_generator(str(tmp_path / "run" / "exports" / "step_00000002"))
    run(shelf, tmp_path / "short", "engine.precision=bf16", "steps=2")
    assert pair_jobs.digest(exported.model) == weights(tmp_path / "short")


def test_activation_checkpointing_and_accumulation_change_nothing(shelf: Path, tmp_path: Path) -> None:
    run(shelf, tmp_path / "one", "batch.micro_size=16", "steps=2", *GUIDED)
    run(
        shelf,
        tmp_path / "two",
        "batch.micro_size=2",
        "steps=2",
        "engine.activation_checkpointing=true",
        *GUIDED,
    )
    same_weights(tmp_path / "one", tmp_path / "two")


def same_weights(one: Path, other: Path, atol: float = 1e-4) -> None:
    states = [load_generator(str(run / "model")).model.state_dict() for run in (one, other)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(
            tensor, states[1][name], atol=atol, rtol=1e-3, msg=lambda text: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("method", "stage"), [("grpo", 0), ("grpo", 1), ("grpo", 2), ("dpo", 1), ("rejection", 1)]
)
def test_two_processes_train_like_one(
    pair: Any, method: str, stage: int, shelf: Path, tmp_path: Path
) -> None:
    # AdamW divides by the size of a gradient: with so large an eps, roundings of small ones stay small.
    overrides = [*tiny.METHODS[method], *GUIDED, f"engine.zero_stage={stage}", "optimizer.adamw.eps=1e-3"]
    overrides += ["updates_per_rollout=2", "steps=2", tiny.held_out(shelf), "logging.evaluate_every=2"]
    if method == "grpo":
        overrides.append("grpo={kl: 0.1, similarity: true}")
    with tiny.judged(tiny.Channel(1)):
        one = run(shelf, tmp_path / "one", *overrides)
    both = pair.run("post_train", shelf=str(shelf), output=str(tmp_path / "two"), overrides=overrides)
    assert both[0] == both[1]
    same_weights(tmp_path / "one", tmp_path / "two")
    two = read_records(tmp_path / "two", "train")
    for name in (
        "reward",
        "reward_std",
        "equal_groups",
        "diversity",
        "entropy",
        "ratio",
        "grad_norm",
        "loss",
    ):
        assert [line[name] for line in one] == pytest.approx(
            [line[name] for line in two], rel=1e-3, abs=1e-5
        ), name
    judged = [read_records(tmp_path / name, "evaluation") for name in ("one", "two")]
    assert [line["judge"] for line in judged[0]] == pytest.approx(
        [line["judge"] for line in judged[1]], abs=1e-5
    )


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["init_from=gone"], "init_from: gone: no such folder"),
        (
            ["model.tokenizer.source={shelf}/other_vqrae"],
            "model.tokenizer.source: .*belongs to another VQRAE",
        ),
        (["model.architecture.hidden_size=32"], "init_from: .*hidden_size: the recipe states 32"),
        (["model.image_size=24"], "model.image_size: the recipe states 24, the generator has 16"),
        (["model.max_length=70"], "model.max_length: the recipe states 70, the generator has 60"),
        (["model.text_vocabulary=400"], "model.text_vocabulary: the recipe states 400"),
        (["prompts.file=gone.txt"], "prompts.file: gone.txt: cannot be read"),
        (["prompts.file={shelf}/plain.txt"], "rewards.0: .*plain.txt: line 1: no GenEval metadata"),
        (["prompts.without=[{shelf}/prompts.jsonl]"], "prompts.without: leaves out all 5 prompts"),
        (["rollouts.prompts=3"], "rollouts.prompts: expected a multiple of the 2 tags"),
        (["batch.micro_size=5"], "batch.micro_size: 5 does not divide the 16 pictures"),
        (["rewards=[{kind: clip, model: gone}]"], "rewards.0: .*gone"),
        (
            ["held_out={prompts: '{shelf}/prompts.jsonl', judge: {kind: rules, detector: world}}"],
            "is learned from, too",
        ),
        (
            ["held_out={prompts: gone, judge: {kind: rules, detector: world}}"],
            "held_out.prompts: gone: cannot be read",
        ),
        (
            [
                "held_out={prompts: '{shelf}/held_out.jsonl', judge: {kind: rules, detector: world, graded: true}}"
            ],
            "held_out.judge: rules: looks at pictures with what the reward rules looks with",
        ),
    ],
)
def test_bad_input_is_one_line(overrides: list[str], complaint: str, shelf: Path, tmp_path: Path) -> None:
    given = [override.replace("{shelf}", str(shelf)) for override in overrides]
    with pytest.raises(UserError, match=complaint) as error:
        train(tiny.recipe(shelf, tmp_path / "run", *given))
    assert "\n" not in str(error.value)


def test_prompts_that_leave_no_room(shelf: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("red " * 50 + "\n")
    with tiny.rewarded(), pytest.raises(UserError, match="51 tokens, but 42 fit beside a picture"):
        train(tiny.recipe(shelf, tmp_path / "run", f"prompts.file={long}"))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("rollouts.group=1", "rollouts.group: expected 2 to 4096, found 1"),
        ("rollouts.top_k=5", "rollouts.top_k: unknown key"),
        ("rollouts.temperature=0.0", "rollouts.temperature: expected a positive number"),
        ("rewards=[]", "rewards: expected at least one scorer"),
        ("rewards=[{kind: rules, detector: world, weight: 0.0}]", "rewards: expected a weight above 0"),
        ("method=dpo", "grpo: expected null beside method dpo"),
        ("grpo=null", "grpo: expected its settings"),
        ("grpo.clip=0.0", "grpo.clip: expected a positive number below 1"),
        ("prompts.file=null", "prompts.file: expected a file, or made in its place"),
        ("engine.zero_stage=3", "engine.zero_stage: post-training supports 0, 1 and 2"),
        ("checkpoint.best=judge", "checkpoint.best: nothing is evaluated"),
        ("model.max_length=18", "max_length: 18 leaves no room for text"),
        ("samples.sampling.top_k=33", "samples.sampling.top_k: expected at most the 32 codes"),
    ],
)
def test_recipes_that_do_not_fit(override: str, complaint: str, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        tiny.recipe(shelf, tmp_path, override)


def test_a_run_goes_on_from_the_generator_it_began_with(shelf: Path, tmp_path: Path) -> None:
    """The reference comes from there at each start."""
    run(shelf, tmp_path / "run", "steps=2")
    other = f"init_from={tmp_path / 'run' / 'model'}"
    config = tiny.recipe(shelf, tmp_path / "run", "steps=4", other)
    with tiny.rewarded():
        with pytest.raises(UserError, match="the recipe is not the one"):
            train(config)
        with pytest.raises(UserError, match=r"init_from: .*holds other weights than this run began with"):
            train(config, RunOptions(allow_change=("init_from",)))
