"""A model of transformers from a folder, of the architecture that a recipe states, with every weight in its place.

The library itself fills what a checkpoint lacks with random numbers and drops what it has no place for, with a
warning at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from common.errors import UserError, refusing
from common.models.weight_files import refuse_stand_in, weight_files


def load_strictly(
    model_class: Any, folder: Path, called: str, *, surplus: bool = False, **options: Any
) -> Any:
    """`model_class.from_pretrained(folder, **options)`, on the CPU unless `options` say otherwise.

    Args:
        called: what it is to be, for errors, such as "a VQRAE".
        surplus: let tensors be that the model has no place for, as some of the hub's checkpoints have.

    Raises:
        UserError: it cannot be loaded, or its weights are not those of its config: missing, surplus or misshapen.
    """
    files = weight_files(folder, str(folder))
    with refusing(f"{folder}: cannot be loaded as {called}", Exception, UserError):
        for path in files:
            refuse_stand_in(path)
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem) and not (surplus and problem == "unexpected_keys"):
            raise UserError(
                f"{folder}: weights do not fit config.json: {problem}: {sorted(info[problem])[0]}"
            )
    return model


def config_of(architecture: Mapping[str, Any], where: str) -> PreTrainedConfig:
    """The config with these fields, `model_type` among them.

    Args:
        where: the recipe's field, for errors.

    Raises:
        UserError: they are none that transformers knows.
    """
    fields = dict(architecture)
    with refusing(where):
        return AutoConfig.for_model(str(fields.pop("model_type")), **fields)


def check_architecture(
    config: Any, stated: Mapping[str, Any], source: str, path: str = "config.json: "
) -> None:
    """Hold the fields that a recipe states against those of the checkpoint at `source`.

    Args:
        path: stands before the field's name in errors.

    Raises:
        UserError: one of them differs.
    """
    for field, value in stated.items():
        rotations = getattr(config, "rope_parameters", None) or {}  # where transformers keeps `rope_theta`
        found = getattr(config, field, rotations.get(field))
        if isinstance(value, (list, tuple)):
            value, found = list(value), list(found) if isinstance(found, (list, tuple)) else found
        elif isinstance(found, (list, tuple)) and value is not None:
            found = found[0]  # a square by its sides
        if found != value:
            raise UserError(
                f"{source}: {path}{field}: the recipe states {value!r}, the checkpoint has {found!r}"
            )
