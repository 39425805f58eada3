"""What an evaluation needs, looked for before anything slow: all that is missing on one screen, and how to get it.

A weights file that the hub could still give is no lack where the hub answers: it is downloaded when it is loaded.
Offline, or where the hub does not answer within seconds, it is.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import UserError
from common.models.run_folder import model_of

SECONDS = 5.0  # until a host that does not answer counts as absent


@dataclass(frozen=True)
class Need:
    """One thing that must be there. `how` says how to get it: a command, a repository's name, an option."""

    what: str
    found: bool
    how: str


def require(benchmark: str, needs: Iterable[Need]) -> None:
    """Print what is missing, all of it at once.

    Raises:
        UserError: something is.
    """
    missing = [need for need in needs if not need.found]
    if not missing:
        return
    if os.environ.get("RANK", "0") == "0":
        network = "the hub answers" if hub_answers() else "offline, or the hub does not answer"
        lines = [f"{benchmark}: missing here ({network})"]
        for need in missing:
            lines += [f"  - {need.what}", *(f"      {line}" for line in need.how.splitlines())]
        print("\n".join(lines), flush=True)
    raise UserError(f"{benchmark}: missing: {'; '.join(need.what for need in missing)}")


def package(module: str, how: str) -> Need:
    """A Python package, by the name that is imported; it is looked for and not imported."""
    return Need(f"the Python package {module}", importlib.util.find_spec(module) is not None, how)


def file(path: str | Path, what: str, how: str) -> Need:
    """A file or a folder."""
    return Need(f"{what}: {path}", Path(path).exists(), how)


def hub_files(repository: str, names: Iterable[str], what: str, option: str, kind: str = "model") -> Need:
    """Files of a repository on the hub: in the cache, or to be had from a hub that answers.

    Args:
        repository: a hub id, or a folder that stands for it.
        option: the command-line option that names a local copy instead.
        kind: `model` or `dataset`.
    """
    names = tuple(names)
    if Path(repository).is_dir():
        absent = [name for name in names if not (Path(repository) / name).is_file()]
        return Need(f"{what}: {', '.join(absent)} in {repository}", not absent, f"or set {option}")

    cached = _cached(repository, names, kind)
    if cached is None:
        return Need(f"{what}: {repository}", False, f"no such folder, and no hub id either; set {option}")
    switch = "" if kind == "model" else f" --repo-type {kind}"
    return Need(
        f"{what}: {repository} ({', '.join(names)})",
        cached or hub_answers(),
        f"hf download {repository} {' '.join(names)}{switch}\n"
        f"then copy the cache (HF_HOME) here, or set {option} to a local folder",
    )


def model(source: str, what: str = "the model", option: str = "MODEL") -> Need:
    """A model of any kind: a folder, whose loader says what is amiss in it, or a hub id."""
    cached = Path(source).is_dir() or _cached(source, ["config.json"], "model")
    if cached is None or (not cached and source.count("/") != 1):
        return Need(f"{what}: {source}", False, f"no such folder, and no hub id either; set {option}")
    how = f"hf download {source}\nthen copy the cache (HF_HOME) here, or set {option} to a local folder"
    return Need(f"{what}: {source}", cached or hub_answers(), how)


def model_with_config(source: str, how: str) -> Need:
    """A model of transformers: a folder with its config.json, or a hub id."""
    if not Path(source).is_dir() and source.count("/") == 1:
        return model(source)
    return file(model_of(Path(source)) / "config.json", "the model", how)


def _cached(repository: str, names: Iterable[str], kind: str) -> bool | None:
    """Whether the hub's cache has these files; None where this can be no repository's name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return all(
            isinstance(try_to_load_from_cache(repository, name, repo_type=kind), str) for name in names
        )
    except HFValidationError:
        return None


def torch_hub_file(address: str, what: str, how: str) -> Need:
    """A file that torch's hub keeps under the last part of its address: kept already, or to be had."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache_home}/torch")).expanduser()
    path = home / "hub" / "checkpoints" / address.rsplit("/", 1)[-1]
    return Need(f"{what}: {path.name}", path.is_file() or answers(address), f"{address}\nas {path};\n{how}")


def hub_answers() -> bool:
    """Whether the Hugging Face hub (or its mirror, HF_ENDPOINT) can be reached; False at once when offline."""
    from huggingface_hub import constants

    return not is_offline() and answers(constants.ENDPOINT)


def is_offline() -> bool:
    """Whether the user has said so, by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def answers(address: str) -> bool:
    """Whether anything answers there, within `SECONDS`."""
    answered: list[bool] = []

    def ask() -> None:
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        try:
            with urlopen(Request(address, method="HEAD"), timeout=SECONDS):
                answered.append(True)
        except HTTPError:  # an answer all the same
            answered.append(True)
        except (OSError, ValueError):
            pass

    # Looking up a name has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answered)
