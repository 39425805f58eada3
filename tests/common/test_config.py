"""Strict YAML: what a recipe may say, and that every mistake is one line naming file and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from common.config import (
    Architecture,
    ConfigError,
    Rate,
    Share,
    configclass,
    dump_config,
    load_config,
    stating,
    validate,
)


@configclass
class Inner:
    lr: float
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: expected a positive number, found {self.lr}")


@configclass
class Outer:
    steps: int
    inner: Inner
    items: tuple[Inner, ...] = ()
    flag: bool = False
    name: str | None = None


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 10\ninner: {lr: 1e-4}\nitems:\n- {lr: 1}\n")
    return path


def test_a_recipe_and_its_dump_are_equal(recipe: Path, tmp_path: Path) -> None:
    config = load_config(Outer, recipe, ["inner.kind=b", "items.0.lr=2e-3", "name=three"])
    assert config == Outer(steps=10, inner=Inner(lr=1e-4, kind="b"), items=(Inner(lr=2e-3),), name="three")
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config))
    assert load_config(Outer, dumped) == config


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stepz=1", "stepz: unknown key"),
        ("inner.lrr=1", "inner.lrr: unknown key"),
        ("steps=ten", "steps: expected a valid integer"),
        ("steps=1.5", "steps: expected a valid integer"),
        ("steps='10'", "steps: expected a valid integer"),
        ("flag=1", "flag: expected a valid boolean"),
        ("flag=yes please", "flag: expected a valid boolean"),
        ("inner.kind=c", "inner.kind: expected 'a' or 'b'"),
        ("inner.lr=-1", "inner.lr: expected a positive number"),
        ("inner.lr=.nan", "inner.lr: expected a finite number"),
        ("inner=null", "inner: expected an object"),
        ("items.3.lr=1", "expected an index below 1"),
        ("items.0.lr=-1", "items.0.lr: expected a positive number"),
        ("name=3", "name: expected a valid string"),
        ("steps.x=1", "'steps' has no keys below it"),
        ("steps", "expected key.path=value"),
    ],
)
def test_mistakes_are_one_line(recipe: Path, override: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(Outer, recipe, [override])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps: 1\nsteps: 2\ninner: {lr: 1}", "'steps' stands twice"),
        ("inner: {lr: 1}", "steps: missing"),
        ("- 1", "a recipe is a mapping"),
        ("steps: [", "no valid YAML"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(Outer, path)
    assert complaint in str(error.value) and str(path) in str(error.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot read the recipe"):
        load_config(Outer, tmp_path / "gone.yaml")


def test_annotations_say_what_a_value_must_be_beyond_its_type() -> None:
    @configclass
    class Base:
        rate: Rate | None = None
        names: Annotated[Architecture, stating("width", "depth")]

    @configclass
    class Heir(Base):
        share: Share = 0.5

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.share == self.rate:
                raise ValueError("share: expected another number than rate")

    good: dict[str, Any] = {"width": 1, "depth": 2}
    assert Heir(names=good).rate is None
    for fields, message in (
        ({"rate": 0.0}, "rate: expected a positive number, found 0.0"),
        ({"names": {"width": 1}}, "names: expected depth to be stated"),
        ({"share": 1.5}, "share: expected a share in [0, 1], found 1.5"),
        ({"share": 1.0, "rate": 1.0}, "share: expected another number than rate"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Heir(**{"names": good, **fields})
        with pytest.raises(ConfigError, match=re.escape(f"here: {message}")):
            validate(Heir, {"names": good, **fields}, "here")
