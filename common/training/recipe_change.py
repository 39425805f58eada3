"""What a resumed run may change of its recipe, and what became of it.

The recipe is compared with the one that the run's checkpoint was trained with, field by field. Each field has a class,
in a table beside the recipe's dataclass (`ON_RESUME`):

    free      what is learned does not depend on it: logging, workers, how the model is spread over GPUs
    applied   what the new file says is what runs from here on, and a line says what has changed: steps, rates, weights
    switch    as `applied` while there is something on both sides; as `refused` where it comes or goes (0, null, false)
    refused   another run would be meant: seed, data, global batch, model. `--allow-change key` names what is meant so

Whoever adds a field gives it a class: a test walks all of them. RUN/recipes/ keeps every recipe that a run has had.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from common.config import dump_config, plain, read_tree
from common.errors import UserError
from common.files import write_text

Class = Literal["free", "applied", "switch", "refused"]
Rules = dict[str, Class]
"""`key.path` of a field, or of a section for all that stands below it, -> its class; the longest path counts."""

SHARED: Final[Rules] = {
    "output": "free",
    "processes": "free",
    "resume": "free",
    "seed": "refused",
    "init_from": "refused",  # a teacher, or a frozen language model, comes from there at each start
    "model": "refused",
    "model.attn_implementation": "free",
    "data": "refused",
    "data.workers": "free",
    "data.prefetch": "free",
    "batch.global_size": "refused",
    "batch.micro_size": "free",
    "optimizer.adamw.betas": "applied",
    "optimizer.adamw.weight_decay": "applied",
    "optimizer.adamw.eps": "applied",
    "optimizer.adamw.max_grad_norm": "applied",
    "engine.zero_stage": "free",
    "engine.precision": "refused",
    "engine.activation_checkpointing": "free",
    "engine.offload": "free",
    "engine.nvme_path": "free",
    "guard": "applied",
    "logging": "free",
    "checkpoint": "free",
    "evaluation": "free",
}
"""What the three recipes have in common."""


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


@dataclass(frozen=True)
class Difference:
    """A field that differs between the recipe of a checkpoint and the one that a run goes on with."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.now)}"


def class_of(key: str, rules: Rules) -> Class:
    """The class of a field; a number in its path stands for any.

    Raises:
        KeyError: none is given.
    """
    parts = [part for part in key.split(".") if not part.isdigit()]
    for length in range(len(parts), 0, -1):
        found = rules.get(".".join(parts[:length]))
        if found is not None:
            return found
    raise KeyError(key)


def differences(before: Any, now: Any, key: str = "") -> Iterator[Difference]:
    """Where a stored recipe differs from a config.

    A field that is newer than the stored recipe differs if it is not at its default; what only the stored one has
    belongs to an older version of the program, and is left out.

    Args:
        before: plain data, as `plain` gives it. now: a config, or a value of it.
    """
    if dataclasses.is_dataclass(now) and isinstance(before, Mapping):
        for field in dataclasses.fields(now):
            value, path = getattr(now, field.name), f"{key}.{field.name}".lstrip(".")
            if field.name in before:
                yield from differences(before[field.name], value, path)
            elif field.default is dataclasses.MISSING or value != field.default:
                yield Difference(path, ABSENT, plain(value))
    elif isinstance(now, dict) and isinstance(before, Mapping):
        for name in sorted({*before, *now}):
            path = f"{key}.{name}"
            yield from differences(before.get(name, ABSENT), now.get(name, ABSENT), path)
    elif (
        isinstance(now, tuple)
        and isinstance(before, list)
        and len(now) == len(before)
        and _holds_configs(now)
    ):
        for number, (former, value) in enumerate(zip(before, now, strict=True)):
            yield from differences(former, value, f"{key}.{number}")
    elif before != plain(now):
        yield Difference(key, before, plain(now))


def _holds_configs(values: tuple[Any, ...]) -> bool:
    return any(dataclasses.is_dataclass(value) for value in values)


def check_recipe(
    run: Path,
    config: Any,
    rules: Rules,
    allowed: Collection[str],
    record: Mapping[str, Any] | None = None,
) -> list[str]:
    """Whether a run may go on from its checkpoint with this recipe; the lines that say what has changed.

    Args:
        config: the recipe to go on with.
        allowed: fields, or sections, of class `refused` that may differ.
        record: of the checkpoint; where it holds no `recipe`, that in `RUN/config.yaml` is taken.

    Raises:
        UserError: a refused field has changed and is not named in `allowed`; `allowed` names what is no field; the
            former recipe cannot be read.
    """
    stored, trained_with = run / "config.yaml", (record or {}).get("recipe")
    if trained_with is None:
        if not stored.is_file():
            return [f"warning: {stored}: absent, so nobody can tell whether the recipe has changed"]
        trained_with = read_tree(stored)
    found = list(differences(trained_with, config))
    known = [*_paths(plain(config)), *(difference.key for difference in found)]
    for name in allowed:
        if not any(_below(path, name) for path in known):
            raise UserError(f"--allow-change {name}: no such field in the recipe")
    lines, refused = [], []
    for difference in found:
        kind = class_of(difference.key, rules)
        if kind == "switch":
            kind = "applied" if difference.before and difference.now else "refused"
        if kind == "refused" and not any(_below(difference.key, name) for name in allowed):
            refused.append(difference)
        elif kind != "free":
            lines.append(f"{run}: recipe: {difference}" + (", as allowed" if kind == "refused" else ""))
    if refused:
        raise UserError(
            f"{run}: the recipe is not the one that this run was trained with: {'; '.join(map(str, refused))}. Take it "
            "back, choose another output, or go on all the same with --allow-change "
            + ",".join(difference.key for difference in refused)
        )
    return lines


def check_steps(run: Path, field: str, steps: int, done: int) -> None:
    """Raises:
    UserError: the recipe asks for fewer steps than the run has done.
    """
    if steps < done:
        raise UserError(
            f"{run}: {field}: the recipe asks for {steps} steps, and the run has done {done}; ask for as many or more, "
            "or choose another output"
        )


def keep_recipe(run: Path, config: Any, step: int, ranks: int) -> None:
    """Write the recipe to `RUN/config.yaml`, and where it is not the last one of `RUN/recipes` there too.

    Args:
        step: the steps that were done before it. ranks: how many processes run it.

    Raises:
        UserError: it cannot be written.
    """
    text, folder = dump_config(config), run / "recipes"
    write_text(run / "config.yaml", text)
    numbers = sorted(int(path.stem) for path in folder.glob("*.yaml") if path.stem.isdigit())
    last = folder / f"{numbers[-1]:04d}.yaml" if numbers else None
    if last is None or not last.read_text(encoding="utf-8").endswith("\n" + text):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = f"# from step {step} on, {now}, {ranks} ranks\n"
        write_text(folder / f"{(numbers[-1] if numbers else 0) + 1:04d}.yaml", head + text)


def _paths(value: Any, key: str = "") -> Iterator[str]:
    """Every path in plain data, sections included."""
    if key:
        yield key
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, item in items:
        yield from _paths(item, f"{key}.{name}".lstrip("."))


def _below(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
