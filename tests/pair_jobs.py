"""What the two processes of the `pair` fixture can do; imported once, at their start."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import tiny_engine
import tiny_generator
import tiny_post_training
import torch
from full_disk import full_disk
from ledger import Ledger, ledger
from poison import several as poisoned  # noqa: F401

from common import dist
from common.errors import UserError
from common.training.checkpoint import Checkpoints
from common.training.engine import BatchConfig, EngineConfig, deepspeed_config, start_engine
from common.training.optim import parameter_groups
from common.training.state import TrainingState
from common.training.stored import background
from common.training.stored.reading import newest_whole
from evals.geneval import run as geneval
from evals.reconstruction import run as reconstruction
from generation import extract_codes as code_extraction
from generation import picture_folder
from generation import train as generation_train
from generation.drawing import Drawing
from generation.generator import Generator
from post_training import train as post_training
from tokenizer import assemble as tokenizer_assemble
from tokenizer import train as tokenizer_train
from tokenizer.codebook_start import start_from_data
from understanding import assemble
from understanding import train as understanding_train
from understanding.export import export_model, save_adapter


def rank_and_world() -> tuple[int, int]:
    return dist.rank(), dist.world()


def train_tokenizer(
    pictures: str, output: str, overrides: list[str], stop_after: int | None = None
) -> dict[str, Any]:
    """Train the tiny recipe; returns a digest of the weights that this rank ends with.

    Args:
        stop_after: interrupt the run once the checkpoint of this step is written.
    """
    config = tiny.tokenizer_recipe(Path(pictures), Path(output), *overrides)
    with stopped(stop_after) as kept:
        tokenizer_train.train(config)
    return {"weights": digest(kept[0].engines["generator"].module)}


def train_understanding(shelf: str, output: str, overrides: list[str], stop_after: int | None = None) -> None:
    """Train the tiny recipe of understanding; `stop_after` as above."""
    config = tiny.understanding_recipe(Path(shelf), Path(output), *overrides)
    with stopped(stop_after):
        understanding_train.train(config)


@contextlib.contextmanager
def stopped(after: int | None) -> Iterator[list[TrainingState]]:
    """Interrupts a run inside once it has saved the checkpoint of step `after`; gives what the run has changed."""
    kept: list[TrainingState] = []
    start, save = TrainingState.__init__, TrainingState.save

    def remember(self: TrainingState, *inputs: Any, **named: Any) -> None:
        kept.append(self)
        start(self, *inputs, **named)

    def save_and_stop(self: TrainingState, checkpoints: Any) -> None:
        save(self, checkpoints)
        if self.progress.step == after:
            checkpoints.wait()
            raise KeyboardInterrupt

    patches = {"__init__": remember, "save": save_and_stop}
    with mock.patch.multiple(TrainingState, **patches), contextlib.suppress(KeyboardInterrupt):
        yield kept


def leg(trainer: str, shelf: str, output: str, overrides: list[str], stop_after: int | None = None) -> Ledger:
    """A part of a run of the tiny recipe of `tokenizer`, `understanding` or `generation`, until the checkpoint of step
    `stop_after` is there; returns which samples this rank read."""
    recipes = {
        "tokenizer": (tiny.tokenizer_recipe, tokenizer_train.train),
        "understanding": (tiny.understanding_recipe, understanding_train.train),
        "generation": (tiny_generator.recipe, generation_train.train),
    }
    recipe, train = recipes[trainer]
    quiet = ["logging.log_every=1", "logging.picture_every=1000", "logging.evaluate_every=1000"]
    config = recipe(Path(shelf), Path(output), *quiet, *overrides)
    with stopped(stop_after) as states, ledger(states) as read:
        train(config)  # type: ignore[operator]
    return read


def digest(model: torch.nn.Module) -> str:
    """Equal exactly when all tensors are."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def score_pictures(arguments: list[str]) -> None:
    """`evals/reconstruction/run.py` on this rank's share of the pictures."""
    reconstruction.main(arguments)


def judge_pictures(arguments: list[str]) -> None:
    """`evals/geneval/run.py`, both ranks together."""
    geneval.main(arguments)


def train_generator(
    shelf: str, output: str, overrides: list[str], stop_after: int | None = None
) -> dict[str, Any]:
    """Train the tiny generator; returns a digest of the weights that this rank ends with. `stop_after` as above."""
    config = tiny_generator.recipe(Path(shelf), Path(output), *overrides)
    with stopped(stop_after) as kept:
        generation_train.train(config)
    return {"weights": digest(kept[0].engines["generator"].module)}


def post_train(shelf: str, output: str, overrides: list[str]) -> dict[str, Any]:
    """Post-train the tiny generator for red pictures, judged by how green they are; a digest of this rank's weights."""
    config = tiny_post_training.recipe(Path(shelf), Path(output), *overrides)
    judge = tiny_post_training.Channel(1)
    with stopped(None) as kept, tiny_post_training.rewarded(), tiny_post_training.judged(judge):
        post_training.train(config)
    return {"weights": digest(kept[0].engines["generator"].module)}


def extract_codes(shelf: str, folder: str, batch_size: int, shard_size: int) -> None:
    """`generation/extract_codes.py` on this rank's share of the shards."""
    lenient = ("data.max_corrupt_share=0.2", f"data.codes={folder}/codes")
    code_extraction.extract(
        tiny_generator.recipe(Path(shelf), Path(folder) / "run", *lenient), batch_size, shard_size
    )


def write_pictures(model: str, prompts: list[str], n: int, folder: str, batch_size: int) -> list[str]:
    """This rank's share of a folder of generated pictures; returns the names of all."""
    drawn = picture_folder.write_pictures(
        Generator.from_pretrained(model),
        prompts,
        n,
        Path(folder),
        Drawing(seed=3, stated={"cfg_scale": 2.0}, batch_size=batch_size),
    )
    return [file.name for file in drawn.files]


def step_language_side(
    shelf: str, output: str, batches: str, overrides: list[str], kind: str, steps: int = 2
) -> dict[str, Any]:
    """A few steps of the language side alone on given micro-batches, shared out over ranks and accumulation; then its
    export, and its adapter's where it has one.

    Args:
        batches: a file with a list of inputs of `LanguageSide.forward`, with `pixel_values` in the place of features.
    """
    micro_batches = torch.load(batches)
    config = tiny.understanding_recipe(
        Path(shelf),
        Path(output),
        f"batch.global_size={len(micro_batches)}",
        "batch.micro_size=1",
        *overrides,
        kind=kind,
    )
    device = dist.start()
    settings = deepspeed_config(config.engine, config.batch, dist.world(), 1.0)
    torch.manual_seed(0)
    tower = assemble.assemble_tower(config, device)
    processor = assemble.assemble_processor(config, tower)
    side = assemble.assemble_language_side(config, tower, processor, settings, device)
    built = sum(parameter.numel() for parameter in side.parameters())
    groups = parameter_groups("learned", [side], 1e-3, 0.0)
    engine = start_engine(side, groups, lambda group: lambda step: 1.0, (0.9, 0.999), 1e-6, settings)
    learned = sum(len(batch["targets"]) for batch in micro_batches)
    losses, predicted = [], []
    for _ in range(steps):
        total = torch.zeros((), device=device)
        for batch in micro_batches[dist.rank() :: dist.world()]:
            inputs = dict(batch)
            features = assemble.read_features(tower, inputs.pop("pixel_values"), config.engine.precision)
            loss, guesses = engine(features=features, **inputs)
            engine.backward(loss * len(micro_batches) / learned)
            engine.step()
            total += loss.detach() / learned
            predicted.append(guesses.tolist())
        losses.append(float(dist.sum_(total)))
    export_model(Path(output) / "model", side, tower, processor)
    if config.model.lora is not None:
        save_adapter(Path(output) / "adapter", side, config.init_from)
    buffers = {str(buffer.dtype) for buffer in side.buffers()}
    return {"losses": losses, "predicted": predicted, "built": built, "buffers": buffers}


def start_codebook_from_data(pictures: str, overrides: list[str]) -> dict[str, Any]:
    """What each rank's quantizer holds once the tiny recipe has started its codebook, as plain lists."""
    config = tiny.tokenizer_recipe(Path(pictures), Path("unused"), *overrides)
    torch.manual_seed(config.seed)
    model = tokenizer_assemble.assemble_model(config)
    torch.manual_seed(dist.rank())
    start_from_data(model, config, torch.device("cpu"))
    return {name: tensor.tolist() for name, tensor in model.quantizer.named_buffers()}


def engine(**inputs: Any) -> list[float]:
    """`tiny_engine.go_on` on both ranks."""
    return tiny_engine.go_on(**inputs)


def checkpoint_of_two(folder: str) -> dict[str, Any]:
    """Each rank gives half of the tensors; both read all."""
    checkpoints = Checkpoints(Path(folder), keep=1)
    if dist.is_main():
        Path(folder).mkdir()
    dist.barrier()
    give_half(checkpoints, 5)
    found = checkpoints.newest()
    assert found is not None
    right = all(found.read(str(i)).tolist() == [float(i)] * 50 for i in range(8))
    files = len(list(found.path.glob("weights_*")))
    return {"keys": len(found.keys()), "step": found.record["step"], "right": right, "files": files}


def give_half(checkpoints: Checkpoints, step: int) -> None:
    tensors = [(str(i), torch.full((50,), float(i)) if i % 2 == dist.rank() else None) for i in range(8)]
    checkpoints.save(step, tensors, {"step": step})


def checkpoint_in_background(folder: str) -> dict[str, Any]:
    """Rank 1 writes late; what is there before and after."""
    if dist.is_main():
        Path(folder).mkdir()
    dist.barrier()
    opened, write = threading.Event(), background.write_share

    def late(*arguments: Any) -> Any:
        assert dist.rank() == 0 or opened.wait(60)
        return write(*arguments)

    checkpoints = Checkpoints(Path(folder), keep=1, background=True)
    with mock.patch.object(background, "write_share", late):
        give_half(checkpoints, 5)
        if dist.is_main():
            assert checkpoints._writer is not None
            assert checkpoints._writer.own_share() is not None
        early = [path.name for path in Path(folder).iterdir() if not path.name.startswith(".")]
        dist.sum_(torch.ones(1))  # as training goes on
        opened.set()
        checkpoints.poll()
        checkpoints.wait()
    found = checkpoints.newest()
    assert found is not None
    right = all(found.read(str(i)).tolist() == [float(i)] * 50 for i in range(8))
    names = sorted(path.name for path in Path(folder).iterdir())
    return {"early": early, "late": found.step, "right": right, "names": names}


def checkpoint_that_does_not_fit(folder: str, full: int, background: bool = False) -> str:
    """The disk of rank `full` is full at the second save; what each rank says."""
    if dist.is_main():
        Path(folder).mkdir()
    dist.barrier()
    checkpoints = Checkpoints(Path(folder), keep=1, background=background)
    give_half(checkpoints, 1)
    checkpoints.wait()
    try:
        with full_disk(100) if dist.rank() == full else contextlib.nullcontext():
            give_half(checkpoints, 2)
            checkpoints.wait()
    except UserError as error:
        dist.barrier()
        return str(error)
    raise AssertionError("nothing was said")


def checkpoint_damaged_between(folder: str) -> int:
    """The step that each rank goes on from, where a file of rank 1's newest has one bit flipped."""
    if dist.is_main():
        Path(folder).mkdir()
    dist.barrier()
    checkpoints = Checkpoints(Path(folder), keep=2)
    give_half(checkpoints, 1)
    give_half(checkpoints, 2)
    if dist.is_main():
        file = Path(folder) / "step_00000002" / "weights_rank00001_00000.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    dist.barrier()
    found = Checkpoints(Path(folder), keep=2).newest()
    assert found is not None
    return found.step


def stale_checkpoints(folder: str) -> int:
    """The step that each rank goes on from, where rank 1's disk lags behind: its `latest` names the one before."""
    own = Path(folder) / f"disk{dist.rank()}"
    own.mkdir(parents=True)
    checkpoints = Checkpoints(Path(folder), keep=2)
    give_half(checkpoints, 1)
    give_half(checkpoints, 2)
    shutil.copytree(Path(folder) / "step_00000001", own / "step_00000001")
    shutil.copytree(Path(folder) / "step_00000002", own / "step_00000002")
    (own / "latest").write_text(f"step_0000000{2 - dist.rank()}\n")
    found = newest_whole(own)
    assert found is not None
    return found.step


def unshared_checkpoints(folder: str) -> str:
    """Each rank has a disk of its own under the same recipe; what each says."""
    own = Path(folder) / f"disk{dist.rank()}"
    own.mkdir()

    def elsewhere(path: Path) -> bool:
        return (own / path.name).exists()

    with mock.patch("common.training.checkpoint._appears", elsewhere):
        try:
            Checkpoints(own / "checkpoints", keep=1).newest()
        except UserError as error:
            return str(error)
    raise AssertionError("nothing was said")


def deepspeed_checkpoint(folder: str, stage: int) -> dict[str, Any]:
    """What versions before wrote for an engine, after a step; returns its weights and buffers."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    device = dist.start()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 3)).to(device)
    module[1].bias.requires_grad_(False)
    module.register_buffer("scale", torch.tensor([2.0]))
    engine_config = EngineConfig(zero_stage=stage, precision="fp32")  # type: ignore[arg-type]
    settings = deepspeed_config(engine_config, BatchConfig(global_size=2, micro_size=1), dist.world(), 1.0)
    groups = parameter_groups("learned", [module], 1e-1, 0.0)
    engine = start_engine(module, groups, lambda group: lambda step: 1.0, (0.9, 0.999), 1e-6, settings)
    engine.backward(engine(torch.ones(1, 3)).pow(2).mean())
    engine.step()
    engine.save_checkpoint(str(Path(folder).parent), tag=Path(folder).name + "/net", save_latest=False)
    weights = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and stage:
            weights[name] = safe_get_full_fp32_param(parameter).tolist()
        else:
            with GatheredParameters(parameter, enabled=stage == 3):
                weights[name] = parameter.tolist()
    return {**weights, "scale": [2.0]}
