"""The standardised start: features of mean 0 and deviation 1 reach the first layer; the model stays the library's."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from common.config import ConfigError
from common.training.engine import deepspeed_config
from understanding import assemble
from understanding.projector_start import standardize
from understanding.train import train


def test_the_first_layer_reads_standardised_features(shelf: Path, tmp_path: Path) -> None:
    config = tiny.understanding_recipe(shelf, tmp_path / "run", "model.projector_start=standardized")
    device = torch.device("cpu")
    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    settings = deepspeed_config(config.engine, config.batch, 1, 1.0)
    side = assemble.assemble_language_side(config, tower, processor, settings, device)
    dataset = assemble.assemble_dataset(config, config.data.sources, processor)
    first = side.llava.model.multi_modal_projector.linear_1
    weight, bias = first.weight.detach().clone(), first.bias.detach().clone()

    pixels = torch.cat([dataset.read(index).pixel_values for index in range(len(dataset))])
    features = assemble.read_features(tower, pixels, "fp32")
    flat = features.flatten(0, 1)
    standard = (features - flat.mean(0)) / flat.std(0)
    standardize(side, tower, dataset, "fp32")
    torch.testing.assert_close(
        first(features), torch.nn.functional.linear(standard, weight, bias), atol=1e-4, rtol=1e-4
    )
    train(config)  # and it trains and exports like any other
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_it_needs_whole_parameters(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="standardized needs zero_stage 0, 1 or 2"):
        tiny.understanding_recipe(
            shelf, tmp_path, "model.projector_start=standardized", "engine.zero_stage=3"
        )
