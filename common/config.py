"""Strict YAML into frozen dataclasses.

A recipe is one self-contained YAML file: no inheritance, no interpolation. Every key must exist in the
dataclass and have its type, so a typo ends the run before anything is loaded. `key.path=value` overrides are
parsed by the same YAML rules. The dataclasses stand beside what they configure; pydantic only validates them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.errors import UserError, one_line

Config = TypeVar("Config")
MOST = 10**9
"""Beyond it a count or a rate is a slip of the keyboard, and what follows from it overflows somewhere."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a field's value must be beyond its type: stands in its annotation, as in `Count`.

    `problem` gives what was expected and is not so, or None.
    """

    problem: Callable[[Any], str | None]


def within(expected: str, holds: Callable[[Any], bool]) -> Checked:
    """A range, in words and as a predicate."""
    return Checked(lambda value: None if holds(value) else f"expected {expected}, found {value}")


def between(least: int, most: int) -> Checked:
    """A range of whole numbers, both ends included."""
    return within(f"{least} to {most}", lambda value: least <= value <= most)


def _sensible(expected: str, holds: Callable[[Any], bool]) -> Checked:
    """A range without an end of its own: it ends at `MOST`."""

    def problem(value: float) -> str | None:
        if value > MOST:
            return f"expected at most {MOST}, found {value}"
        return None if holds(value) else f"expected {expected}, found {value}"

    return Checked(problem)


def _sizes(architecture: dict[str, Any]) -> str | None:
    """Numbers that a model can have: sizes and how many there are of something are 1 or more."""
    for key, value in architecture.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if not abs(value) <= MOST:
            return f"expected {key} to be at most {MOST} in size, found {value}"
        if (key.startswith("num_") or key.endswith(("_size", "_dim", "_embeddings"))) and value < 1:
            return f"expected {key} to be 1 or more, found {value}"
    return None


Architecture = Annotated[dict[str, int | float | str | bool], Checked(_sizes)]
"""Config fields of a model, as a recipe states them beside where its weights come from."""


def stating(*needed: str) -> Checked:
    """An architecture with at least these fields; those that are no names are whole numbers."""

    def problem(architecture: dict[str, Any]) -> str | None:
        missing = [key for key in needed if key not in architecture]
        if missing:
            return f"expected {', '.join(missing)} to be stated"
        for key in needed:
            value, expected = architecture[key], str if key == "model_type" else int
            if type(value) is not expected:
                return f"expected {key} to be {'a name' if expected is str else 'a whole number'}, found {value!r}"
        return None

    return Checked(problem)


Count = Annotated[int, _sensible("1 or more", lambda value: value >= 1)]
Number = Annotated[int, _sensible("0 or more", lambda value: value >= 0)]
Seed = Annotated[int, between(0, 2**32 - 1)]
Workers = Annotated[int, between(0, 256)]
Weight = Annotated[float, _sensible("0 or more", lambda value: value >= 0)]
Rate = Annotated[float, _sensible("a positive number", lambda value: value > 0)]
Share = Annotated[float, within("a share in [0, 1]", lambda value: 0 <= value <= 1)]
ShareBelowOne = Annotated[float, within("a share in [0, 1)", lambda value: 0 <= value < 1)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[Config]) -> type[Config]:
    """A frozen, keyword-only stdlib dataclass whose unknown keys are errors when it is read from a recipe.

    What a value must be beyond its type is said by its annotation (`Checked`); what fields must be beside each other
    goes into `__post_init__`, as `ValueError("field: what was expected")`.
    """
    among_fields = cls.__dict__.get("__post_init__")

    def check(self: Any) -> None:
        for name, checked in _checks(cls):  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is not None and (problem := checked.problem(value)):
                raise ValueError(f"{name}: {problem}")
        if among_fields is not None:
            among_fields(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
    return cls


@cache
def _checks(cls: type) -> tuple[tuple[str, Checked], ...]:
    """Name of a field, and what its annotation asks for."""
    found = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for part in (hint, *get_args(hint)):  # a part of `Rate | None`, too
            notes = getattr(part, "__metadata__", ())
            found += [(name, note) for note in notes if isinstance(note, Checked)]
    return tuple(found)


class ConfigError(UserError):
    """A recipe or an override does not fit its dataclass."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 in the two places where PyYAML's 1.1 surprises: `1e-4` is a number, a repeated key is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"line {node.start_mark.line + 1}: key {key!r} stands twice")
    return {
        key: loader.construct_object(value, deep=True)
        for key, (_, value) in zip(keys, node.value, strict=True)
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_repeats)


def load_config(cls: type[Config], path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read the recipe at `path`, apply `key.path=value` overrides, and validate it as `cls`.

    Raises:
        ConfigError: the file is absent or no YAML, a key is unknown or missing, or a value has the wrong type;
            one line that names the file, the key and what was expected.
    """
    tree = read_tree(path)
    for override in overrides:
        _apply_override(tree, override)
    return validate(cls, tree, where=str(path))


def read_tree(path: str | Path) -> dict[str, Any]:
    """A recipe as plain data, by the YAML rules of recipes.

    Raises:
        ConfigError: the file is absent, no YAML, or holds something else.
    """
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no valid YAML: {one_line(error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys, found {type(tree).__name__}")
    return tree


def validate(cls: type[Config], tree: dict[str, Any], where: str) -> Config:
    """Build `cls` from plain data; `where` names the origin in errors."""
    try:
        # JSON mode of strict validation: lists may become tuples, yet "3" is no integer and 1 no boolean.
        return _adapter(cls).validate_json(_to_json(tree, where), strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(f"{where}: {_describe(error)}") from error


@cache
def _adapter(cls: type[Config]) -> TypeAdapter[Config]:
    return TypeAdapter(cls)


def dump_config(config: Any) -> str:
    """The resolved config as YAML; `load_config` of the result gives an equal config."""
    return yaml.safe_dump(plain(config), sort_keys=False, width=110)


def plain(value: Any) -> Any:
    """A config, or a value of one, as what YAML and JSON know: mappings, lists, numbers, strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key.path=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: no valid YAML value: {one_line(error)}") from error
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, override)
        if node is None:
            raise ConfigError(
                f"override {override!r}: {part!r} is not set, so nothing below it can be overridden"
            )
    if isinstance(node, list):
        _child(node, last, override)
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"override {override!r}: {key.rpartition('.')[0]!r} has no keys below it")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"override {override!r}: expected an index below {len(node)}, found {part!r}")
        return node[int(part)]
    if not isinstance(node, dict):
        raise ConfigError(f"override {override!r}: nothing stands below {part!r}")
    return node.setdefault(part, {})


def _to_json(tree: dict[str, Any], where: str) -> bytes:
    from pydantic_core import PydanticSerializationError, to_json

    try:
        return to_json(tree, inf_nan_mode="constants")
    except PydanticSerializationError as error:  # a YAML date, a set ...
        raise ConfigError(f"{where}: {one_line(error)}") from error


def _describe(error: ValidationError) -> str:
    """The first problem as `key.path: what was expected, found ...`, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    kind, context = first["type"], first.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        text = f"{key}: unknown key"
    elif kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        text = f"{key}: missing, and it has no default"
    elif kind == "value_error":  # raised by a __post_init__, which names its field itself
        prefix = f"{key}." if first["loc"] else ""
        text = f"{prefix}{context['error']}"
    else:
        message = first["msg"].removeprefix("Input ").replace("should be", "expected")
        text = f"{key}: {message}, found {first['input']!r}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
