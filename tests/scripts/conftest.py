"""The demo's scripts, importable; a few scenes and a small world that its tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.demo import make_world, scenes


@pytest.fixture(scope="session")
def world_seed() -> int:
    """Not the demo's."""
    return 7


@pytest.fixture(scope="session")
def many_scenes(world_seed: int) -> list[scenes.Scene]:
    return [scenes.make_scene(index, seed=world_seed, split="val") for index in range(1000)]


@pytest.fixture(scope="session")
def world_folder(world_seed: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of 60 training and 20 validation scenes, written through the command line."""
    out = tmp_path_factory.mktemp("world") / "small"
    arguments = ["--out", str(out), "--scenes", "60", "--held-out", "20", "--seed", str(world_seed)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_world.py", *arguments])
        make_world.main()
    return out


@pytest.fixture
def two_things() -> scenes.Scene:
    """A red circle at the top left and a blue square at the bottom right."""
    things = (
        scenes.Thing(shape="circle", color="red", left=2, top=3, size=11),
        scenes.Thing(shape="square", color="blue", left=18, top=17, size=10),
    )
    ground = scenes.Background(color=(120.0, 118.0, 122.0), slope=(6.0, -4.0))
    return scenes.Scene(size=32, kind="pair", background=ground, things=things)
