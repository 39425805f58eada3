"""What can be wrong in a page of documentation: each check takes text and returns the problems it found.

Pages are held against the repository itself: links against files and headings, commands against what their own
`--help` says, config keys against the recipes' dataclasses, quoted error lines against the strings in the code, and
whatever else stands in backticks against the words of the code. What belongs to others is listed here, explicitly.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from common.config import ConfigError, _Loader, load_config
from generation.config import GenerationConfig
from post_training.config import PostTrainingConfig
from tokenizer.config import TokenizerConfig
from understanding.config import UnderstandingConfig

ROOT = Path(__file__).parent.parent
CONFIGS: tuple[type, ...] = (TokenizerConfig, UnderstandingConfig, GenerationConfig, PostTrainingConfig)
CONFIG_OF: dict[str, type] = {
    "tokenizer/train.py": TokenizerConfig,
    "understanding/train.py": UnderstandingConfig,
    "understanding/preflight.py": UnderstandingConfig,
    "generation/train.py": GenerationConfig,
    "generation/extract_codes.py": GenerationConfig,
    "post_training/train.py": PostTrainingConfig,
}

# Commands of others, whose options are their own affair.
FOREIGN_COMMANDS = {
    "apt-get", "cd", "export", "git", "hf", "lmms-eval", "mkdir", "modelscope", "pip", "pre-commit", "source",
    "tensorboard", "unzip", "iconv", "uv", ".venv/bin/uv", "dmesg", "sbatch", "docker",
}  # fmt: skip
# What starts a script of ours, with its options: True where a value follows.
LAUNCHERS = {
    "deepspeed": {"--hostfile": True, "--num_gpus": True, "--num_nodes": True, "--include": True},
    "torchrun": {
        "--standalone": False,
        "--nproc-per-node": True,
        "--nnodes": True,
        "--max-restarts": True,
        "--shutdown-timeout": True,
        "--signals-to-handle": True,
    },
}
# Scripts that hand their options on.
PASSED_ON = {"benchmarks.geneval_processes": ("bash", "evals/run_geneval.sh")}
OURS = ("python", "bash", "vqrae", *LAUNCHERS)

# Words in backticks that do not occur in the code: those of others, and of our tests.
FOREIGN_WORDS = {
    "reducing_gap",  # Pillow's
    "CUDA_VISIBLE_DEVICES", "HF_HOME", "HUB_ID", "OutOfMemoryError", "push_to_hub", "slots", "node1", "hosts",
    "iconv", "sys.path", "vision_feature_layer", "key.path", "value", "pair.run",
    "add_special_tokens", "torch.save", "dmesg", "0002.yaml", "deepspeed.launcher.launch", "USR1@300",
}  # fmt: skip
# Folders that runs and users make: what is below them cannot be looked up.
MADE = ("runs", "data", "RUN", "DIR", "~", "imagenet", "pictures", "vqrae-index")
# Names of samples, as pages about data invent them.
SAMPLE = re.compile(r"(\d{4}|dish)(\.\w+)*")
ELLIPSIS = "..."
CODE = ("", ".py", ".sh", ".yaml", ".yml", ".toml", ".txt")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_KEY = re.compile(r"[a-z_]\w*(\.\w+)*")
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_FILE = re.compile(r"[\w.-]+\.(py|md|html|jsonl?|png|svg|ya?ml|sh|txt|tar|csv|toml|cff|pth)(?!\w)")

Help = Callable[[tuple[str, ...]], str | None]
"""A command without its arguments -> its help, or None where it does not exist or its `--help` fails."""


# ---- A page's parts --------------------------------------------------------------------------------------


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [text for language, text in _FENCE.findall(page) if language in languages]


def spans(page: str) -> list[str]:
    """What stands in backticks outside of fenced blocks, on one line each."""
    return [" ".join(span.split()) for span in _INLINE.findall(_FENCE.sub("", page))]


def anchors(page: str) -> set[str]:
    """GitHub's names of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = sum(1 for one in found if re.fullmatch(re.escape(name) + r"(-\d+)?", one))
        found.add(f"{name}-{number}" if number else name)
    return found


# ---- Links -----------------------------------------------------------------------------------------------


def check_links(page: str, folder: Path) -> list[str]:
    """Relative links and images of a page that lies in `folder`: their files exist, and their headings."""
    problems = []
    for target in _LINK.findall(_FENCE.sub("", page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        if path and not (folder / path).exists():
            problems.append(f"link {target}: no such file")
        elif anchor and anchor not in anchors((folder / path).read_text("utf-8") if path else page):
            problems.append(f"link {target}: no such heading")
    return problems


# ---- Config keys -----------------------------------------------------------------------------------------


def field_type(kind: Any, path: Sequence[str]) -> Any:
    """The type that stands at `path` below the type `kind`; None where there is no such key."""
    if not path:
        return kind
    if dataclasses.is_dataclass(kind):
        if path[0] not in {field.name for field in dataclasses.fields(kind)}:
            return None
        return field_type(_hints(kind)[path[0]], path[1:])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        below = (field_type(one, path) for one in arguments if one is not type(None))
        return next((found for found in below if found is not None), None)
    if origin is tuple:  # of sources: by index, or all of them alike
        return field_type(arguments[0], path[1:] if path[0].isdigit() else path)
    return field_type(arguments[1], path[1:]) if origin is dict else None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def check_key(key: str, configs: Iterable[type] = CONFIGS) -> list[str]:
    """`key.path` exists in at least one of the configs."""
    found = any(field_type(config, key.split(".")) is not None for config in configs)
    return [] if found else [f"{key}: no such config key"]


def check_override(override: str, configs: Iterable[type] = CONFIGS) -> list[str]:
    """`key.path=value`: the key exists and takes the value, which may be `...`."""
    key, _, text = override.partition("=")
    problems = check_key(key, configs)
    if problems or text == ELLIPSIS:
        return problems
    kinds = [kind for config in configs if (kind := field_type(config, key.split("."))) is not None]
    value = yaml.load(text, Loader=_Loader)
    return [] if any(_fits(kind, value) for kind in kinds) else [f"{override}: not a value of this key"]


def _fits(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def check_yaml(text: str) -> list[str]:
    """A part of a recipe: its keys exist and take their values, in one of the configs."""
    tree = yaml.load(text, Loader=_Loader)
    return min((list(_misfits(config, tree, "")) for config in CONFIGS), key=len)


def _misfits(kind: Any, value: Any, where: str) -> Iterator[str]:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        for key, item in value.items():
            below = field_type(kind, [key])
            if below is None:
                yield f"{where}{key}: no such config key"
            else:
                yield from _misfits(below, item, f"{where}{key}.")
    elif not _fits(kind, value):
        yield f"{where.rstrip('.')}: {value!r}: not a value of this key"


# ---- Commands --------------------------------------------------------------------------------------------


def shell_lines(block: str) -> list[list[str]]:
    """The words of each command of a block: comments left out, variables of the block filled in."""
    variables: dict[str, str] = {}
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for name, value in variables.items():
            words = [re.sub(rf"\$({name}\b|{{{name}}})", lambda _, v=value: v, word) for word in words]
        if len(words) == 1 and (assigned := re.fullmatch(r"([a-z]+)=(.+)", words[0])):
            variables[assigned[1]] = assigned[2]
        elif words:
            found.append(words)
    return found


def commands(page: str) -> list[list[str]]:
    """All commands of a page: those of its shell blocks, and those in backticks that start with one of ours."""
    found = [words for block in blocks(page, "bash", "sh") for words in shell_lines(block)]
    for span in spans(page):
        if _command_word(span.split()) in OURS and len(span.split()) > 1:
            found += shell_lines(span)
    return found


def _command_word(words: Sequence[str]) -> str:
    return next((word for word in words if not re.match(r"[A-Z_]+=", word)), "")


def target_of(words: Sequence[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """A command -> (what is called, its arguments); None for commands of others.

    What is called: `("python", "x.py")`, `("python", "-m", "x")`, `("bash", "x.sh")` or `("vqrae",)`.

    Raises:
        ValueError: neither ours nor on the list of others.
    """
    words = list(words)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    first = words.pop(0)
    if first in FOREIGN_COMMANDS:
        return None
    if first not in OURS:
        raise ValueError(f"{first}: neither a command of ours nor on the list of others")
    if first in LAUNCHERS:
        while words and words[0] != "-m" and words[0].startswith("-"):
            option = words.pop(0)
            if option not in LAUNCHERS[first]:
                raise ValueError(f"{first}: {option}: not on the list of its options")
            if LAUNCHERS[first][option]:
                words.pop(0)
        first = "python"
    if first == "vqrae":
        return ("vqrae",), words
    if words[:2] == ["-m", "vqrae.cli"]:
        return ("vqrae",), words[2:]
    taken = 2 if words[:1] == ["-m"] else 1
    return (first, *words[:taken]), words[taken:]


def subcommand(target: tuple[str, ...], arguments: Sequence[str], help_of: Help) -> tuple[str, ...]:
    """The target with its subcommand, where its usage ends with one."""
    usage = (help_of(target) or "").split("\n\n")[0]
    given = [word for word in arguments if not word.startswith("-")]
    return (*target, given[0]) if usage.rstrip().endswith(ELLIPSIS) and given else target


def check_command(words: Sequence[str], help_of: Help) -> list[str]:
    """The script or module is there, its `--help` works and knows the options, config keys fit, paths exist."""
    try:
        split = target_of(words)
    except ValueError as error:
        return [str(error)]
    if split is None:
        return []
    target, arguments = split
    shown = " ".join(words)
    target = subcommand(target, arguments, help_of)
    text = help_of(target)
    if text is None:
        return [f"{shown}: `{' '.join(target)} --help` fails"]
    known = set(_OPTION.findall(text + (help_of(PASSED_ON.get(target[-1], target)) or "")))
    options = [word.partition("=")[0] for word in arguments if _OPTION.match(word)]
    problems = [f"{shown}: {option}: no such option" for option in options if option not in known]
    problems += [f"{shown}: {word}: no such file" for word in arguments if not _exists(word)]
    overrides = [word for word in arguments if _KEY.fullmatch(word.partition("=")[0]) and "=" in word]
    config = CONFIG_OF.get(target[-1])
    if config is not None:
        problems += [f"{shown}: {problem}" for one in overrides for problem in check_override(one, [config])]
        if not problems and overrides:
            problems += _load(config, arguments, overrides)
    return problems


def _load(config: type, arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The recipe that `--config` names, if it names one, takes all overrides together."""
    recipe = next((ROOT / word for word in arguments if word.endswith(".yaml")), None)
    if recipe is None:
        return []
    try:
        load_config(config, recipe, [one for one in overrides if not one.endswith(ELLIPSIS)])
    except ConfigError as error:
        return [str(error)]
    return []


def _exists(word: str) -> bool:
    """False for a path into one of the repository's own folders that is not there."""
    first, slash, _ = word.partition("/")
    return not slash or first not in top_folders() or (ROOT / word).exists()


@cache
def top_folders() -> frozenset[str]:
    return frozenset(name.split("/")[0] for name in tracked() if "/" in name)


class Helps:
    """The real `--help` of each command, called once; `ask` calls many side by side."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], str | None] = {}

    def __call__(self, target: tuple[str, ...]) -> str | None:
        if target not in self.known:
            self.known[target] = self._run(target)
        return self.known[target]

    def ask(self, targets: Iterable[tuple[str, ...]]) -> None:
        unknown = sorted(set(targets) - set(self.known))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            self.known |= dict(zip(unknown, pool.map(self._run, unknown), strict=True))

    @staticmethod
    def _run(target: tuple[str, ...]) -> str | None:
        python = {"vqrae": (sys.executable, "-m", "vqrae.cli"), "python": (sys.executable,)}
        command = [*python.get(target[0], (target[0],)), *target[1:], "--help"]
        environment = {**os.environ, "PYTHON": sys.executable, "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout if done.returncode == 0 and done.stdout else None


# ---- Words in backticks, code and quoted errors ------------------------------------------------------------


@cache
def tracked() -> tuple[str, ...]:
    """Files of the repository, also those that are not committed yet."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(name for name in names if (ROOT / name).is_file())


@cache
def code_words() -> frozenset[str]:
    """Every word of the code, and the names of files and folders."""
    words: set[str] = set()
    for name in tracked():
        words |= {name, *name.split("/"), *_halves(Path(name).stem)}
        if Path(name).suffix in CODE and not name.startswith("tests/"):
            text = (ROOT / name).read_text("utf-8")
            words |= set(re.findall(r"[A-Za-z_]\w*", text)) | {m[0] for m in _FILE.finditer(text)}
    return frozenset(words)


def _halves(stem: str) -> Iterator[str]:
    """`a_b`: itself, `a` and `_b`, as families of recipes are named."""
    parts = stem.split("_")
    yield stem
    for cut in range(1, len(parts)):
        yield "_".join(parts[:cut])
        yield "_" + "_".join(parts[cut:])


def check_span(span: str, options: frozenset[str] = frozenset()) -> list[str]:
    """Something in backticks: a path that exists, a config key, or words that the code or the lists above know."""
    if _command_word(span.split()) in {*OURS, *FOREIGN_COMMANDS} and " " in span:
        return []  # see `commands`
    words = _shell_words(span)
    if words and all(re.match(r"[a-z_]+[\w.]*=", word) for word in words):
        return [problem for word in words for problem in _check_assignment(word)]
    problems = []
    for word in re.findall(r"[^\s,;:()\[\]{}'\"|=<>]+", span):
        known = word in options if _OPTION.match(word) else _known_word(word.strip("."))
        if not known:
            problems.append(f"`{span}`: {word}: not found in the repository")
    return problems


def _shell_words(span: str) -> list[str]:
    try:
        return shlex.split(span)
    except ValueError:
        return []


def _check_assignment(word: str) -> list[str]:
    return [] if word.partition("=")[0] in FOREIGN_WORDS else check_override(word)


def _known_word(word: str) -> bool:
    if not word or word in FOREIGN_WORDS or SAMPLE.fullmatch(word) or not re.search(r"[A-Za-z]{2}", word):
        return True
    first = word.split("/")[0]
    if "/" in word:
        # A folder that is made, a hub id, or a name to be chosen.
        if first in MADE or re.match(r"[A-Z]", first) or re.search(r"(/|_)X\b", word):
            return True
        return (ROOT / word).exists() or word.strip("/") in code_words()
    if _KEY.fullmatch(word) and "." in word and not _FILE.fullmatch(word):
        if not check_key(word.split(".")[0]):
            return not check_key(word)
        return (ROOT / word.replace(".", "/")).is_dir() or _module_has(word)
    return word in code_words() or (re.fullmatch(r"\w+", word) is None and "." not in word)


def _module_has(name: str) -> bool:
    """`package.module`, or `package.module.name`."""
    parts = name.split(".")
    if ROOT.joinpath(*parts).with_suffix(".py").is_file():
        return True
    module = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
    return module.is_file() and re.search(rf"\b{parts[-1]}\b", module.read_text("utf-8")) is not None


def check_python(text: str) -> list[str]:
    """It parses, and what it imports from our packages is there."""
    problems = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in top_folders():
            home = ROOT / (node.module or "").replace(".", "/")
            file = home.with_suffix(".py") if home.with_suffix(".py").is_file() else home / "__init__.py"
            there = re.findall(r"\w+", file.read_text("utf-8")) if file.is_file() else []
            problems += [
                f"from {node.module} import {one.name}: not there"
                for one in node.names
                if one.name not in there
            ]
    return problems


@cache
def code_strings() -> tuple[str, ...]:
    """Every string of the code, with \\0 where a value is filled in, and the shell scripts."""
    found = []
    for name in tracked():
        if name.startswith("tests/"):
            continue
        if name.endswith(".sh"):
            found.append((ROOT / name).read_text("utf-8"))
        elif name.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / name).read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    found.append("".join(str(part) for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return tuple(found)


def check_message(line: str) -> list[str]:
    """A quoted `error: ...` or `warning: ...` line is one that the code prints; `...` stands for what it fills in."""
    message = re.sub(r"^(error|warning): (\.\.\.: )*", "", line)
    while not _is_said([part.strip(" :;,") for part in message.split(ELLIPSIS)]):
        # A dataclass names its own field, and whoever reads the recipe what stands above it.
        shorter = re.sub(r"^[a-z]\w*\.", "", message)
        if shorter == message:
            return [f"{line}: the code says no such thing"]
        message = shorter
    return []


def _is_said(parts: Sequence[str]) -> bool:
    """Whether these parts stand in this order in strings of the code: in one, or, since errors quote others, in one
    after the other, each with five letters of them at least."""
    if not "".join(parts):
        return True
    for taken in range(len(parts), 0, -1):
        mine = parts[:taken]
        pattern = re.compile(".*".join(map(re.escape, mine)), re.DOTALL)
        enough = len(re.findall("[a-z]", "".join(mine))) >= 5
        if enough and any(pattern.search(text) for text in code_strings()) and _is_said(parts[taken:]):
            return True
    return False
