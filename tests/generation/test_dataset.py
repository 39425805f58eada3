"""Sequences: which tokens, which of them predict, in which order; and captions give way to codes, never the reverse."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import image_sets
import pytest
import tiny
import tiny_generator
import torch

from common.errors import UserError
from generation.assemble import assemble_generator
from generation.code_encoder import CodeEncoder
from generation.codes.shard import open_shard
from generation.dataset import (
    Batch,
    CodeStream,
    SequenceBuilder,
    prompt_is_dropped,
    sequence,
    training_batches,
)
from generation.extract_codes import extract
from generation.model_folder import GeneratorFolder

ROOM = 22  # text tokens beside 16 codes and two marks, of 40


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_generator.write_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def codes(shelf: Path) -> Path:
    extract(tiny_generator.recipe(shelf, shelf / "run", f"data.codes={shelf / 'codes'}"), 2, 4)
    return shelf / "codes"


@pytest.fixture(scope="module")
def generator(shelf: Path) -> GeneratorFolder:
    return assemble_generator(tiny_generator.recipe(shelf, shelf / "run"))


def batches(
    generator: GeneratorFolder, shelf: Path, *overrides: str, world: int = 1, start: int = 0, steps: int = 8
) -> list[list[Batch]]:
    """`steps` micro-batches of two samples, for each rank."""
    config = tiny_generator.recipe(shelf, shelf / "run", *overrides)
    builder = SequenceBuilder(
        generator.text_tokenizer, generator.vocabulary, config.data.prompt_dropout, config.seed
    )
    encoder = CodeEncoder(generator.vqrae, "fp32")
    return [
        list(islice(training_batches(config.data, builder, encoder, 0, rank, world, 2, start), steps))
        for rank in range(world)
    ]


def rows(found: list[Batch]) -> list[list[int]]:
    """Each sample as its prompt, then its codes."""
    result = []
    for batch in found:
        targets = batch["targets"].view(batch["samples"], -1).tolist()
        for ids, length, picture in zip(
            batch["input_ids"].tolist(), batch["prompt_lengths"], targets, strict=True
        ):
            result.append([*ids[:length], *picture])
    return result


def test_a_long_caption_is_cut_and_no_code_is(generator: GeneratorFolder) -> None:
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    picture = torch.arange(16).view(1, 4, 4)
    for words in (1, 5, 20, 30, 10_000):
        batch = builder(picture, ["red circle " * words], None)
        whole = sequence(builder.prompt("red circle " * words, None), picture[0], generator.vocabulary)
        assert (
            len(whole) <= 40
            and whole[-17:-1] == generator.vocabulary.codes_to_ids(picture).flatten().tolist()
        )
        assert batch["targets"].tolist() == list(range(16)) and batch["input_ids"].shape[1] == len(whole) - 2
    assert batch["prompt_lengths"] == [ROOM + 1]  # begin_image included


def test_a_picture_of_another_size_is_refused(generator: GeneratorFolder) -> None:
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    with pytest.raises(ValueError, match="codes: expected 16 of a picture, found 9"):
        builder(torch.zeros(1, 3, 3), ["red"], None)
    with pytest.raises(ValueError, match="codes: expected 0 to 31, found 0 to 32"):
        builder(torch.tensor([32] + [0] * 15).view(1, 4, 4), ["red"], None)


def test_the_share_of_dropped_captions() -> None:
    dropped = [prompt_is_dropped(0, position, 0.1) for position in range(10_000)]
    assert 900 < sum(dropped) < 1100
    assert dropped == [prompt_is_dropped(0, position, 0.1) for position in range(10_000)]
    assert not any(prompt_is_dropped(0, position, 0.0) for position in range(100))
    assert all(prompt_is_dropped(0, position, 1.0) for position in range(100))


@pytest.mark.parametrize("extracted", [True, False])
def test_two_ranks_read_what_one_reads(
    extracted: bool, generator: GeneratorFolder, shelf: Path, codes: Path
) -> None:
    override = [f"data.codes={codes}"] if extracted else []
    (one,) = batches(generator, shelf, *override, steps=8)
    two = batches(generator, shelf, *override, world=2, steps=4)
    assert Counter(map(tuple, rows(one))) == Counter(map(tuple, rows(two[0]) + rows(two[1])))
    interleaved = [row for pair in zip(rows(two[0]), rows(two[1]), strict=True) for row in pair]
    assert interleaved == rows(one)


@pytest.mark.parametrize("extracted", [True, False])
def test_the_stream_goes_on_anywhere(
    extracted: bool, generator: GeneratorFolder, shelf: Path, codes: Path
) -> None:
    override = [f"data.codes={codes}"] if extracted else []
    (whole,), (rest,) = (batches(generator, shelf, *override, start=at, steps=8 - at // 2) for at in (0, 6))
    assert rows(whole)[6:] == rows(rest)


def test_workers_change_nothing(generator: GeneratorFolder, shelf: Path, codes: Path) -> None:
    for override in ([f"data.codes={codes}"], []):
        (none,), (two,) = (batches(generator, shelf, *override, f"data.workers={n}") for n in (0, 2))
        assert rows(none) == rows(two)


def test_extracted_codes_train_like_pictures(generator: GeneratorFolder, shelf: Path, codes: Path) -> None:
    """Each picture once in each of the two epochs; which of them comes first, and so whose caption is dropped, differs
    where pictures are shuffled one by one."""
    whole = "data.prompt_dropout=0.0"
    (online,), (extracted,) = (
        batches(generator, shelf, whole, *o, steps=12) for o in ([], [f"data.codes={codes}"])
    )
    for at in (0, 12):
        assert sorted(rows(online)[at : at + 12]) == sorted(rows(extracted)[at : at + 12])
    assert set(Counter(tuple(row[-16:]) for row in rows(online)).values()) == {2}


def test_codes_of_tars_come_in_the_order_of_their_pictures(
    generator: GeneratorFolder, shelf: Path, tmp_path: Path
) -> None:
    image_sets.make_shards(tmp_path / "web", [3, 4, 2, 3])
    web = f"data.sources=[{{kind: shards, path: '{tmp_path}/web', window: 2}}]"
    extract(tiny_generator.recipe(shelf, tmp_path, web, f"data.codes={tmp_path}/codes"), 2, 100)
    (online,), (extracted,) = (
        batches(generator, shelf, web, *o, steps=12) for o in ([], [f"data.codes={tmp_path}/codes"])
    )
    assert rows(online) == rows(extracted)


def test_a_recipe_trains_on_its_own_sources(generator: GeneratorFolder, shelf: Path, tmp_path: Path) -> None:
    """Whichever codes lie beside them, and in whatever order the recipe names them."""
    folders = {
        name: tiny.write_pictures(tmp_path / name, count) for name, count in (("cats", 5), ("dogs", 7))
    }
    source = "{{kind: folder, path: {}, unconditional: true}}".format

    def keys(*names: str) -> list[str]:
        sources = ", ".join(source(folders[name]) for name in names)
        config = tiny_generator.recipe(
            shelf, tmp_path, f"data.codes={tmp_path}/codes", f"data.sources=[{sources}]"
        )
        if len(names) == 2:
            extract(config, 4, 100)
        stream = CodeStream(config.data, 0, SequenceBuilder(generator.text_tokenizer, generator.vocabulary))
        return [stream.sample(position).key for position in range(14)]

    both = keys("cats", "dogs")
    assert set(both) == {f"{number:03d}.png" for number in range(7)}
    for name, count in (("dogs", 7), ("cats", 5)):
        assert sorted(set(keys(name))) == [f"{number:03d}.png" for number in range(count)]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["model.tokenizer.source={shelf}/other_vqrae"], "codes: belongs to another VQRAE"),
        (["data.image_size=24", "data.max_length=80"], "codes: grid: the recipe says"),
        (["data.codes={shelf}/gone"], "codes.json: no extracted codes there"),
    ],
)
def test_codes_that_do_not_fit_are_refused(
    overrides: list[str], complaint: str, shelf: Path, codes: Path, tmp_path: Path
) -> None:
    open_shard.cache_clear()
    given = [f"data.codes={codes}", *(override.format(shelf=shelf) for override in overrides)]
    config: Any = tiny_generator.recipe(shelf, tmp_path, *given)
    parts = assemble_generator(config)
    with pytest.raises(UserError, match=complaint):
        CodeStream(config.data, 0, SequenceBuilder(parts.text_tokenizer, parts.vocabulary))
