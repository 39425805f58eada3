"""The stream: one order for all ranks and workers, resumed by position, with corrupt images counted."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import encoded, make_folder, make_parquet, make_shards, number_of
from PIL import Image

from common.data.batch import Batch
from common.data.config import DataConfig, SourceConfig
from common.data.corrupt import CorruptCounter
from common.data.evaluation import evaluation_loader
from common.data.stream import ImageStream, training_loader
from common.errors import UserError

COUNTS = [7, 12, 5, 13]
TOTAL = sum(COUNTS)
KINDS = ["folder", "shards", "hub", "stream", "mixture"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setenv("VQRAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def data_of(kind: str, root: Path, **options: object) -> DataConfig:
    """A stream of one kind of source, or of three kinds weighted 3 : 2 : 1."""
    folder = lambda: make_folder(root / "folder", TOTAL)  # noqa: E731
    shards = lambda: make_shards(root / "shards", COUNTS, window=2)  # noqa: E731
    hub = lambda **more: make_parquet(root / "hub", COUNTS, **more)  # noqa: E731
    sources: tuple[SourceConfig, ...]
    match kind:
        case "folder":
            sources = (folder(),)
        case "shards":
            sources = (shards(),)
        case "hub":
            sources = (hub(),)
        case "stream":
            sources = (hub(streaming=True, stream_block=4),)
        case _:
            stream = hub(streaming=True, stream_block=4)
            weighted = zip((folder(), shards(), stream), (3.0, 2.0, 1.0), strict=True)
            sources = tuple(replace(source, weight=weight) for source, weight in weighted)
    settings: dict[str, object] = {"workers": 0, "lanes": 4, **options}
    return DataConfig(image_size=6, sources=sources, **settings)  # type: ignore[arg-type]


def rows(batch: Batch) -> list[tuple[str, str | None, bytes]]:
    """All that a batch says, sample by sample."""
    images = [pixels.numpy().tobytes() for pixels in batch["pixels"]]
    return list(zip(batch["key"], batch["caption"], images, strict=True))


def straight(config: DataConfig, seed: int, positions: range) -> list[tuple[str, str | None, bytes]]:
    return rows(ImageStream(config, seed).batch(list(positions)))


# ---- one order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_ranks_and_workers_share_one_order(kind: str, tmp_path: Path) -> None:
    config = data_of(kind, tmp_path, lanes=12)  # six of row groups, where these are streamed
    expected = straight(config, 5, range(12, 108))
    for world, micro_batch, workers in ((1, 12, 0), (2, 3, 0), (3, 4, 2), (1, 5, 3), (2, 1, 2)):
        steps = 96 // (world * micro_batch)
        positions: list[tuple[str, str | None, bytes]] = []
        loaders = [
            iter(training_loader(replace(config, workers=workers), 5, rank, world, micro_batch, start=12))
            for rank in range(world)
        ]
        for _ in range(steps):
            parts = [rows(next(loader)) for loader in loaders]
            assert all(len(part) == micro_batch for part in parts)
            positions += [part[place] for place in range(micro_batch) for part in parts]
        assert positions == expected[: len(positions)], (world, micro_batch, workers)


@pytest.mark.parametrize(("world", "workers", "micro_batch"), [(1, 4, 6), (2, 4, 3), (4, 2, 5), (8, 1, 4)])
def test_each_worker_has_lanes_of_its_own(world: int, workers: int, micro_batch: int, tmp_path: Path) -> None:
    """So no two of them read the same file of a streamed dataset."""
    config = data_of("folder", tmp_path, lanes=16, workers=workers)
    lanes: dict[tuple[int, int], set[int]] = {}
    for rank in range(world):
        plan = training_loader(config, 0, rank, world, micro_batch, start=33)._plan()
        for number, positions in enumerate(islice(plan, 12 * workers)):
            lanes.setdefault((rank, number % workers), set()).update(position % 16 for position in positions)
    assert sum(len(each) for each in lanes.values()) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_continues_as_if_never_stopped(kind: str, tmp_path: Path) -> None:
    """Also with another world size and micro-batch, and in a process that has read nothing before."""
    config = data_of(kind, tmp_path)
    loader = training_loader(config, 5, 0, 1, 6)
    whole = [row for batch in islice(loader, 15) for row in rows(batch)]
    stopped_at = 5 * 6
    resumed = [
        row
        for batch in islice(training_loader(config, 5, 0, 1, 6, start=stopped_at), 10)
        for row in rows(batch)
    ]
    assert resumed == whole[stopped_at:]
    ranks = [training_loader(config, 5, rank, 2, 5, start=stopped_at) for rank in range(2)]
    batches = [[row for batch in islice(rank, 6) for row in rows(batch)] for rank in ranks]
    assert [row for pair in zip(*batches, strict=True) for row in pair] == whole[stopped_at:]


@pytest.mark.parametrize("kind", ["folder", "shards", "hub"])
def test_seeds_differ_and_epochs_are_whole(kind: str, tmp_path: Path) -> None:
    config = data_of(kind, tmp_path)
    orders = [[key for key, _, _ in straight(config, seed, range(TOTAL))] for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(len(set(order)) == TOTAL for order in orders)


def test_mixture_keeps_its_weights(tmp_path: Path) -> None:
    keys = [key for key, _, _ in straight(data_of("mixture", tmp_path), 0, range(4 * 6 * 3))]
    kinds = ["shards" if ".tar/" in key else "folder" if key.endswith(".png") else "stream" for key in keys]
    assert [kinds.count(kind) for kind in ("folder", "shards", "stream")] == [36, 24, 12]


def test_crops_and_flips_change_with_the_position(tmp_path: Path) -> None:
    config = data_of("folder", tmp_path)
    images = {
        pixels for key, _, pixels in straight(config, 0, range(40 * TOTAL)) if key.endswith("/0003.png")
    }
    assert len(images) == 2  # the set's images are square: nothing to shift, but a mirror image
    plain = replace(config, flip=False)
    assert (
        len({pixels for key, _, pixels in straight(plain, 0, range(9 * TOTAL)) if key.endswith("/0003.png")})
        == 1
    )


def test_loading_draws_nothing_from_global_generators(tmp_path: Path) -> None:
    """Else a resumed run, which starts its loader anew, would have other random numbers from then on."""
    config = data_of("folder", tmp_path)
    for workers in (0, 2):
        torch.manual_seed(1)
        np.random.seed(1)
        next(iter(training_loader(replace(config, workers=workers), 0, micro_batch=4)))
        list(evaluation_loader(config.sources[0], 6, 8, workers=workers))
        after = (torch.rand(()), np.random.rand())
        torch.manual_seed(1)
        np.random.seed(1)
        assert after == (torch.rand(()), np.random.rand())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_use_can_be_sent_to_another_process(kind: str, tmp_path: Path) -> None:
    stream = ImageStream(data_of(kind, tmp_path), 0)
    expected = rows(stream.batch(list(range(20))))
    assert rows(pickle.loads(pickle.dumps(stream)).batch(list(range(20)))) == expected


def test_workers_forked_from_a_reader_do_not_disturb_it(tmp_path: Path) -> None:
    """Open files are shared by a fork; both sides must still read what they ask for."""
    config = data_of("mixture", tmp_path, workers=2)
    expected = straight(config, 0, range(120))
    loader = training_loader(config, 0, micro_batch=10)
    before = rows(loader.stream.batch(list(range(30))))
    loaded = [row for batch in islice(loader, 12) for row in rows(batch)]
    after = rows(loader.stream.batch(list(range(30, 60))))
    assert before + after == expected[:60] and loaded == expected


# ---- corrupt images --------------------------------------------------------------------------------------


def damage(config: DataConfig, numbers: list[int]) -> None:
    for number in numbers:
        path = next(Path(config.sources[0].path).rglob(f"{number:04d}.png"))
        path.write_bytes(path.read_bytes()[:40])


def test_a_corrupt_image_is_replaced_and_named(tmp_path: Path) -> None:
    config = data_of("folder", tmp_path)
    whole = straight(config, 0, range(2 * TOTAL))
    damage(config, [3, 20])
    for world, workers in ((1, 0), (2, 2)):
        loaders = [
            islice(
                training_loader(replace(config, workers=workers), 0, rank, world, TOTAL // world), 2 * world
            )
            for rank in range(world)
        ]
        batches = [batch for loader in loaders for batch in loader]
        assert all(
            "/0003.png" not in key and "/0020.png" not in key for batch in batches for key in batch["key"]
        )
        skipped = [line for batch in batches for line in batch["skipped"]]
        assert len(skipped) >= 4
        assert all(
            ("0003.png: " in line or "0020.png: " in line) and str(tmp_path) in line for line in skipped
        )
    patched = straight(config, 0, range(2 * TOTAL))
    changed = [old[0] for old, new in zip(whole, patched, strict=True) if old != new]
    assert sorted(changed) == ["part0/0003.png"] * 2 + ["part2/0020.png"] * 2
    assert all(number_of(np.frombuffer(new[2], np.uint8).reshape(3, 6, 6)) not in (3, 20) for new in patched)


def test_a_source_of_corrupt_images_ends_the_run_from_workers_too(tmp_path: Path) -> None:
    config = data_of("folder", tmp_path)
    damage(config, list(range(TOTAL)))
    for workers in (0, 2):
        with pytest.raises(
            UserError, match=r"folder: 16 images could not be read, the last: .*png: "
        ) as caught:
            next(iter(training_loader(replace(config, workers=workers), 0, micro_batch=4)))
        assert "\n" not in str(caught.value)


def test_a_stream_skips_its_corrupt_images(tmp_path: Path) -> None:
    import datasets

    rows = [{"image": {"bytes": encoded(n) if n % 5 else b"no", "path": None}} for n in range(20)]
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set" / "train-00000.parquet")
    source = SourceConfig(kind="hub", path=str(tmp_path / "set"), streaming=True, stream_block=8)
    batch = ImageStream(DataConfig(image_size=6, sources=(source,)), 0).batch(list(range(20)))
    assert all(number_of(pixels.numpy()) % 5 for pixels in batch["pixels"])
    assert len(batch["skipped"]) >= 4


def test_the_counter_stops_past_the_share() -> None:
    counter = CorruptCounter(0.01, minimum=1000)
    counter.add(["a.jpg: truncated"] * 10, 100)
    counter.check()  # 10 of the first 1000 are allowed
    counter.add(["b.jpg: not an image"], 1)
    with pytest.raises(
        UserError, match=r"11 of 101 images .* max_corrupt_share allows \(0.01\); the latest.*b.jpg"
    ):
        counter.check()
    counter.add([], 2000)
    counter.check()


def test_the_counter_stops_all_ranks_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sum over ranks, which another one's images are part of."""
    counter = CorruptCounter(0.01, minimum=1)
    counter.add(["a.jpg: truncated"], 50)
    monkeypatch.setattr("common.dist.sum_", lambda mine: mine + torch.tensor([50, 0]))
    assert counter.check_all_ranks(torch.device("cpu")) == 1
    monkeypatch.setattr("common.dist.sum_", lambda mine: mine + torch.tensor([50, 1]))
    with pytest.raises(UserError, match="2 of 100 images"):
        counter.check_all_ranks(torch.device("cpu"))


def test_the_counter_adds_up_over_ranks_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved by three ranks, resumed by two."""
    ranks = [CorruptCounter(0.5) for _ in range(3)]
    for rank, counter in enumerate(ranks):
        counter.add([f"{rank}.jpg: empty"] * rank, 10)
    every = [(counter._samples, counter._skipped, counter.names) for counter in ranks]
    monkeypatch.setattr("common.dist.gather_objects", lambda mine: every)
    state = ranks[0].state_dict()
    assert state == {"samples": 30, "skipped": 3, "names": ["1.jpg: empty", *["2.jpg: empty"] * 2]}
    resumed = [CorruptCounter(0.5) for _ in range(2)]
    for rank, counter in enumerate(resumed):
        monkeypatch.setattr("common.dist.rank", lambda rank=rank: rank)
        counter.load_state_dict(state)
        counter.add([], 1)
    assert torch.stack([counter.counts() for counter in resumed]).sum(0).tolist() == [32, 3]


# ---- evaluation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "shards", "hub"])
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (3, 0), (2, 2)])
def test_every_image_is_evaluated_once(kind: str, world: int, workers: int, tmp_path: Path) -> None:
    source = data_of(kind, tmp_path).sources[0]
    loaders = [evaluation_loader(source, 6, 5, rank, world, workers=workers) for rank in range(world)]
    batches = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(part) for part in batches]
    numbers = [number_of(pixels.numpy()) for part in batches for batch in part for pixels in batch["pixels"]]
    assert sorted(numbers) == list(range(TOTAL))
    assert numbers[:5] == list(range(0, 5 * world, world)) or kind == "folder"
    assert len({key for part in batches for batch in part for key in batch["key"]}) == TOTAL


def test_whole_batches_are_those_of_one_process(tmp_path: Path) -> None:
    """Eleven images in batches of four: whoever loads a batch, it holds the same images."""
    source = make_folder(tmp_path, 11)
    load = lambda rank, world: [  # noqa: E731
        batch["key"] for batch in evaluation_loader(source, 6, 4, rank, world, whole_batches=True)
    ]
    alone = load(0, 1)
    assert [len(keys) for keys in alone] == [4, 4, 3]
    for world in (2, 3, 5):
        dealt = [load(rank, world) for rank in range(world)]
        assert [dealt[at % world][at // world] for at in range(3)] == alone
        assert sum(map(len, dealt)) == 3


def test_an_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = evaluation_loader(make_folder(tmp_path, 11), 6, 4)
    rest = replace(whole, start=8)
    assert len(rest) == 1 and [batch["key"] for batch in rest] == [list(whole)[2]["key"]]
    assert len(replace(whole, start=11)) == 0 and not list(replace(whole, start=11))


def test_an_evaluation_makes_squares_as_it_is_told(tmp_path: Path) -> None:
    def black(picture: Image.Image, rng: np.random.Generator) -> torch.Tensor:
        return torch.zeros(3, 6, 6, dtype=torch.uint8)

    source = make_folder(tmp_path, 3)
    seen = [batch["pixels"] for batch in evaluation_loader(source, 6, 2, transform=black)]
    assert [pixels.shape[0] for pixels in seen] == [2, 1] and not any(pixels.any() for pixels in seen)


def test_more_ranks_than_images_and_a_limit(tmp_path: Path) -> None:
    source = make_folder(tmp_path, 3)
    sizes = [[len(batch["key"]) for batch in evaluation_loader(tmp_path, 6, 2, rank, 5)] for rank in range(5)]
    assert sizes == [[1], [1], [1], [], []]
    assert [len(batch["key"]) for batch in evaluation_loader(source, 6, 8, limit=2)] == [2]


def test_corrupt_images_end_an_evaluation_unless_they_are_counted(tmp_path: Path) -> None:
    config = data_of("folder", tmp_path)
    damage(config, [7])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"0007.png: ") as caught:
            list(evaluation_loader(config.sources[0], 6, 8, workers=workers))
        assert "\n" not in str(caught.value)
    batches = list(evaluation_loader(config.sources[0], 6, 8, skip_corrupt=True))
    assert sum(len(batch["pixels"]) for batch in batches) == TOTAL - 1
    assert [line.split(": ")[0][-8:] for batch in batches for line in batch["skipped"]] == ["0007.png"]


def test_a_stream_is_no_evaluation_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="streaming"):
        evaluation_loader(data_of("stream", tmp_path).sources[0], 6, 4)


# ---- photographs -----------------------------------------------------------------------------------------


def test_photographs_load(photographs: Path) -> None:
    batches = list(evaluation_loader(photographs / "photos" / "val", 64, 32))
    assert sum(len(batch["key"]) for batch in batches) == len(
        list((photographs / "photos" / "val").glob("*.jpg"))
    )
    captioned = SourceConfig(kind="folder", path=str(photographs / "coco128" / "images"))
    batch = ImageStream(DataConfig(image_size=64, sources=(captioned,)), 0).batch(list(range(16)))
    assert batch["pixels"].float().std() > 20 and all(batch["caption"]) and not batch["skipped"]
