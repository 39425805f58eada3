"""Whatever is handed to the commands: it works, or ends in one line and a non-zero exit, never in a traceback.

Everything goes through the surface that a user touches (`tokenizer/train.py`, `evals/reconstruction/run.py` and
`vqrae reconstruct`); what the parts refuse is tested beside them.
"""

from __future__ import annotations

import json
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import deepspeed  # noqa: F401  # its logger keeps the stdout it meets, which must not be that of a single test
import numpy as np
import pytest
import tiny
from PIL import Image

from common.config import dump_config
from common.errors import run_cli
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from common.training.records import read_records
from evals.reconstruction import run as reconstruction
from tokenizer import train
from vqrae import cli

Main = Callable[[], None]
RED, BLUE, GRAY, WHITE = (255, 0, 0), (0, 0, 255), (100, 100, 100), (255, 255, 255)
SIDE = 16  # px, of the tiny model's pictures

# Pictures that must work: name -> the colours of its upper and lower half once it is upright RGB.
ODD = {
    "gray.png": (GRAY, GRAY),
    "gray_16_bit.png": (GRAY, GRAY),
    "gray_16_bit.tif": (GRAY, GRAY),
    "gray_12_bit.tif": (GRAY, GRAY),
    "bilevel.png": (WHITE, WHITE),
    "cmyk.jpg": (RED, RED),
    "alpha.png": (RED, WHITE),
    "gray_alpha.png": (WHITE, WHITE),
    "palette.gif": (RED, RED),
    "rotated.jpg": (RED, BLUE),
    "one_pixel.png": (GRAY, GRAY),
}


def write_odd(folder: Path) -> None:
    size = (20, 20)
    Image.new("L", size, 100).save(folder / "gray.png")
    deep = Image.fromarray(np.full(size, 100 * 257, np.uint16))
    deep.save(folder / "gray_16_bit.png")
    deep.save(folder / "gray_16_bit.tif")
    Image.fromarray(np.full(size, 100 * 16, np.uint16)).save(folder / "gray_12_bit.tif")
    Image.new("1", size, 1).save(folder / "bilevel.png")
    Image.new("CMYK", size, (0, 255, 255, 0)).save(folder / "cmyk.jpg", quality=95)
    alpha = Image.new("RGBA", size, (*RED, 255))
    alpha.paste((0, 0, 0, 0), (0, 10, 20, 20))
    alpha.save(folder / "alpha.png")
    Image.new("LA", size, (0, 0)).save(folder / "gray_alpha.png")
    Image.new("RGB", size, RED).quantize(2).save(folder / "palette.gif")
    Image.new("RGB", (1, 1), GRAY).save(folder / "one_pixel.png")
    lying = Image.new("RGB", (40, 20), RED)
    lying.paste(BLUE, (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned clockwise by a quarter: the left half, red, comes to the top
    lying.save(folder / "rotated.jpg", quality=95, exif=exif)


def write_tars(folder: Path) -> None:
    """A shard that is compressed inside, and one whose sample has two pictures."""
    (folder / "packed").mkdir()
    for path, mode in ((folder / "packed" / "packed.tar", "w:gz"), (folder / "two.tar", "w")):
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for name in ("0.jpg", "0.depth.png"):
                tar.add(folder / "odd" / "gray.png", name)


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels by its header: 1.2 GB once decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def torn_jpeg() -> bytes:
    """The first 60% of a JPEG."""
    from io import BytesIO

    whole = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    return whole.getvalue()[: len(whole.getvalue()) * 6 // 10]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad pictures, folders and checkpoints, by name."""
    root = tmp_path_factory.mktemp("shelf")
    for name in ("empty", "texts", "odd", "torn", "bombs", "phone", "running/checkpoints"):
        (root / name).mkdir(parents=True)
    (root / "running" / "config.yaml").write_text("steps: 6\n")
    (root / "texts" / "notes.txt").write_text("no picture")
    write_odd(root / "odd")
    (root / "torn" / "torn.jpg").write_bytes(torn_jpeg())
    (root / "bombs" / "bomb.png").write_bytes(bomb())
    write_tars(root)
    (root / "phone" / "a.heic").write_bytes(b"\0\0\0\x14ftypheic\0\0\0\0mif1" + bytes(64))
    tiny.write_pictures(root / "good")
    for path in (root / "torn" / "torn.jpg", root / "bombs" / "bomb.png"):
        tiny.write_pictures(root / "mixed", count=10)
        (root / "mixed" / path.name).write_bytes(path.read_bytes())

    VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 32, 16, 4).save_pretrained(root / "vqrae")
    VQRAE.from_encoder(build_encoder(tiny.SIGLIP), 64, 16, 4).save_pretrained(root / "vqrae_64_codes")
    build_encoder({**tiny.SIGLIP, "hidden_size": 32}).save_pretrained(root / "wide_encoder")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).save_pretrained(root / "llama")
    return root


@pytest.fixture
def command(shelf: Path, tmp_path: Path) -> Callable[..., int]:
    """Calls a main function with arguments; returns its exit code. `{shelf}` and `{out}` stand for folders."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(tiny.tokenizer_recipe(shelf / "good", tmp_path / "run")))

    def call(main: Main, *arguments: str) -> int:
        words = [word.replace("{shelf}", str(shelf)).replace("{out}", str(tmp_path)) for word in arguments]
        if main is train.main and "--config" not in words:
            words += ["--config", str(recipe)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["command", *words])
            try:
                run_cli(main)
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    return call


def the_error(captured: str) -> str:
    """The one line of stderr that is an error: the last one, whatever progress bars stand above it."""
    assert "Traceback" not in captured
    errors = [line for line in captured.split("\n") if "error: " in line]
    assert len(errors) == 1 and errors[0].startswith("error: "), captured
    assert captured.endswith(errors[0] + "\n")
    return errors[0]


# ---- training: the recipe, checkpoints, data, batch ------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("stepz=1", "recipe.yaml: stepz: unknown key"),
        ("model.encoder.sauce=x", "recipe.yaml: model.encoder.sauce: unknown key"),
        ("steps=ten", "recipe.yaml: steps: expected a valid integer, found 'ten'"),
        ("data.sources.0.weight=heavy", "recipe.yaml: data.sources.0.weight: expected a valid number"),
        ("model.freeze_encoder=1", "recipe.yaml: model.freeze_encoder: expected a valid boolean"),
        ("--config={out}/gone.yaml", "gone.yaml: cannot read the recipe"),
        ("--config={shelf}/odd/gray.png", "gray.png: no valid YAML"),
    ],
)
def test_a_recipe_that_does_not_fit(
    argument: str, named: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argument.split("=") if argument.startswith("--") else [argument]
    assert command(train.main, *arguments) == 2
    error = capsys.readouterr().err
    assert named in the_error(error) and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("init_from={shelf}/gone", ["init_from: ", "gone: no such folder"]),
        ("init_from={shelf}/empty", ["init_from: ", "empty/config.json"]),
        ("init_from={shelf}/llama", ["init_from: ", "llama/config.json: model_type", "'llama'"]),
        ("init_from={shelf}/wide_encoder", ["init_from: ", "wide_encoder/config.json: model_type"]),
        (
            "init_from={shelf}/vqrae_64_codes",
            ["vqrae_64_codes: model.codebook_size: the recipe states 32, the checkpoint has 64"],
        ),
        ("model.encoder.source={shelf}/gone", ["gone: no such folder"]),
        ("model.encoder.source={shelf}/llama", ["llama/config.json: model_type", "'llama'"]),
        ("model.encoder.source={shelf}/vqrae", ["vqrae/config.json: model_type", "'vqrae'"]),
        (
            "model.encoder.source={shelf}/wide_encoder",
            ["wide_encoder: config.json: hidden_size: the recipe states 16, the checkpoint has 32"],
        ),
        ("data.sources.0.path={shelf}/gone", ["gone: no such folder"]),
        ("data.sources.0.path={shelf}/empty", ["empty: no images in this folder, found nothing"]),
        ("data.sources.0.path={shelf}/texts", ["texts: no images in this folder, found 1 other files"]),
        ("data.sources.0.path={shelf}/odd/gray.png", ["gray.png: not a folder"]),
        ("data.sources=[{kind: shards, path: {shelf}/packed}]", ["packed.tar: compressed by gzip", "gunzip"]),
        (
            "data.sources=[{kind: shards, path: {shelf}/two.tar}]",
            ["two.tar: image_column: 1 samples have more than one picture (0 has .depth.png, .jpg)"],
        ),
        ("data.sources.0.path={shelf}/torn", ["could not be read", "torn.jpg: image file is truncated"]),
        (
            "data.sources.0.path={shelf}/bombs",
            ["could not be read", "bomb.png: 400000000 pixels, over the limit"],
        ),
        ("evaluation.images={shelf}/gone", ["gone: no such folder"]),
        ("evaluation.images={shelf}/texts", ["texts: no images in this folder"]),
        ("evaluation.images={shelf}/bombs", ["bomb.png: 400000000 pixels, over the limit"]),
        ("batch.global_size=3", ["batch.global_size: 3 is no multiple of batch.micro_size 2 x 1 ranks"]),
        ("output={shelf}/odd/gray.png", ["gray.png: output: cannot be made"]),
    ],
)
def test_a_run_that_cannot_start(
    override: str, named: list[str], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(train.main, override) == 2
    error = the_error(capsys.readouterr().err)
    assert all(part in error for part in named), error


@pytest.mark.parametrize(("gpus", "named"), [("3", "4 is no multiple of"), ("0", "--gpus"), ("-1", "--gpus")])
def test_a_plan_for_a_wrong_number_of_gpus(
    gpus: str, named: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(train.main, "--dry-run", "--gpus", gpus) == 2
    assert named in the_error(capsys.readouterr().err)


@pytest.mark.slow
def test_a_run_of_another_architecture_is_not_resumed(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(train.main, "steps=1") == 0
    latest = tmp_path / "run" / "checkpoints" / "latest"
    before = latest.read_text()
    wider = ("model.codebook_size=64", "model.codebook_start.images=16")
    assert command(train.main, *wider) == 2
    assert "trained with: model.codebook_size: 32 -> 64" in the_error(capsys.readouterr().err)
    assert command(train.main, *wider, "--allow-change", "model") == 2
    said = the_error(capsys.readouterr().err)
    assert "generator/buffer/quantizer.codebook: the recipe's is 64 x 16, the checkpoint's 32 x 16" in said
    assert latest.read_text() == before and (latest.parent / before.strip()).is_dir()


# ---- training: pictures of every kind --------------------------------------------------------------------


def last_line(run: Path) -> dict[str, float]:
    return read_records(run, "train")[-1]


@pytest.mark.slow
def test_odd_pictures_are_trained_and_evaluated_on(command: Callable[..., int], tmp_path: Path) -> None:
    steps = -(-len(ODD) // 4)  # a whole epoch: each picture comes at least once
    odd = ["data.sources.0.path={shelf}/odd", "evaluation.images={shelf}/odd", "evaluation.limit=100"]
    assert command(train.main, *odd, f"steps={steps}") == 0
    assert last_line(tmp_path / "run")["skipped"] == 0
    last = read_records(tmp_path / "run")[-1]
    assert last["kind"] == "evaluation" and last["images"] == len(ODD)


@pytest.mark.slow
def test_damaged_pictures_and_bombs_are_counted(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = ["data.sources.0.path={shelf}/mixed", "evaluation.images=null"]
    assert command(train.main, *mixed) == 0
    assert last_line(tmp_path / "run")["skipped"] >= 2 * 2  # both bad ones, in both of the run's epochs
    capsys.readouterr()
    assert command(train.main, *mixed, "output={out}/strict", "data.max_corrupt_share=0.001") == 2
    error = the_error(capsys.readouterr().err)
    assert "could not be read, more than max_corrupt_share allows (0.001)" in error
    assert "torn.jpg" in error or "bomb.png" in error


# ---- `vqrae reconstruct` ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_reconstructed(name: str, command: Callable[..., int], tmp_path: Path) -> None:
    picture = "{shelf}/odd/" + name
    assert command(cli.main, "reconstruct", "{shelf}/vqrae", picture, "{out}/out.png", "--side-by-side") == 0
    with Image.open(tmp_path / "out.png") as written:
        height = 2 * SIDE if name == "rotated.jpg" else SIDE  # it lay, and stands
        assert (written.mode, written.size) == ("RGB", (2 * SIDE, height))
        read = np.asarray(written).astype(int)[:, :SIDE]  # the original, as the model saw it
    for row, colour in zip((0, -1), ODD[name], strict=True):
        assert np.abs(read[row] - colour).max() < 8  # JPEG is not exact


@pytest.mark.parametrize(
    ("checkpoint", "picture", "named"),
    [
        ("gone", "odd/gray.png", ["gone: no such folder"]),
        ("empty", "odd/gray.png", ["empty/config.json"]),
        ("llama", "odd/gray.png", ["llama/config.json: model_type: expected 'vqrae', found 'llama'"]),
        ("running", "odd/gray.png", ["running: a run that has left no model yet; `vqrae export"]),
        ("vqrae", "gone.png", ["gone.png: no such picture or folder"]),
        ("vqrae", "empty", ["empty: no images in this folder"]),
        ("vqrae", "texts", ["texts: no images in this folder"]),
        ("vqrae", "texts/notes.txt", ["notes.txt: not an image"]),
        ("vqrae", "phone/a.heic", ["a.heic: HEIC, which is not read; convert it"]),
        ("vqrae", "torn/torn.jpg", ["torn.jpg: image file is truncated"]),
        ("vqrae", "torn", ["torn: none of its 1 pictures could be read"]),
        ("vqrae", "bombs/bomb.png", ["bomb.png: 400000000 pixels, over the limit of 89478485"]),
    ],
)
def test_reconstruct_refuses(
    checkpoint: str,
    picture: str,
    named: list[str],
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = time.monotonic()
    arguments = ["reconstruct", "{shelf}/" + checkpoint, "{shelf}/" + picture, "{out}/out.png"]
    assert command(cli.main, *arguments) == 2
    assert time.monotonic() - started < 10  # nothing is decoded that is refused
    error = the_error(capsys.readouterr().err)
    assert all(part in error for part in named), error
    assert not (tmp_path / "out.png").exists()


# ---- the evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "judge", "named"),
    [
        ("a circle", "taste", "--judge: expected one of rules:DETECTOR, clip"),
        ("a circle", "clip:{shelf}/gone", "--judge: missing here: a CLIP: "),
        (
            "a circle",
            "clip:{shelf}/vqrae",
            "--judge: model: {shelf}/vqrae/config.json: model_type: expected 'clip'",
        ),
        (
            "a circle",
            "questions:{shelf}/llama",
            "llama/config.json: model_type: expected 'llava', found 'llama'",
        ),
        ("a circle", "rules:{shelf}/empty", "--judge: missing here: the detector's weights: config.json"),
        (
            "a circle in the sun",
            "rules:world",
            "no rules follow from this prompt: expected a photo of a CLASS",
        ),
        ("a sign", "legibility", "--judge: "),  # nothing reads here, or nothing is to be read
    ],
)
def test_generate_refuses_a_judge(
    prompt: str,
    judge: str,
    named: str,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "generate",
        "{shelf}/no_generator",
        prompt,
        "--best-of",
        "4",
        "--judge",
        judge,
        "--out",
        "{out}/p",
    ]
    assert command(cli.main, *arguments) == 2
    error = the_error(capsys.readouterr().err)
    assert all(part in error for part in named.split("{shelf}"))
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("checkpoint", "images", "named"),
    [
        ("llama", "good", "llama/config.json: model_type: expected 'vqrae', found 'llama'"),
        ("vqrae", "texts", "texts: no images in this folder"),
        # A score over fewer is another score.
        ("vqrae", "mixed", "bomb.png: 400000000 pixels, over the limit"),
    ],
)
def test_evaluation_refuses(
    checkpoint: str,
    images: str,
    named: str,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip = ["--skip-fid", "--skip-lpips", "--workers", "0", "--device", "cpu"]
    arguments = ["{shelf}/" + checkpoint, "--images", "{shelf}/" + images, "--output", "{out}/scores"]
    assert command(reconstruction.main, *arguments, *skip) == 2
    assert named in the_error(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--size", "4", "argument --size: expected 16 to 16384, found 4"),
        ("--size", "1e3", "argument --size: expected 16 to 16384, found 1e3"),
        ("--workers", "-1", "argument --workers: expected 0 to 256, found -1"),
        ("--batch-size", "0", "argument --batch-size: expected 1 or more, found 0"),
        ("--limit", "9" * 5000, "argument --limit: expected 1 or more, found 999"),
    ],
)
def test_evaluation_refuses_numbers_that_cannot_be(
    option: str, value: str, said: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["{shelf}/vqrae", "--images", "{shelf}/good", "--output", "{out}/scores", option, value]
    assert command(reconstruction.main, *arguments) == 2
    assert said in capsys.readouterr().err


def test_odd_pictures_are_scored(command: Callable[..., int], tmp_path: Path) -> None:
    skip = ["--skip-fid", "--skip-lpips", "--workers", "0", "--device", "cpu"]
    assert (
        command(reconstruction.main, "{shelf}/vqrae", "--images", "{shelf}/odd", "--output", "{out}", *skip)
        == 0
    )
    assert json.loads((tmp_path / "results.json").read_text())["counts"]["scored"] == len(ODD)


# ---- asking: models of another kind, pictures, questions -----------------------------------------------------------


@pytest.mark.parametrize("word", ["ask", "chat"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{shelf}/gone", "{shelf}/odd/gray.png"], "gone: no such folder"),
        (["{shelf}/empty", "{shelf}/odd/gray.png"], "empty/config.json"),
        (
            ["{shelf}/llama", "{shelf}/odd/gray.png"],
            "llama/config.json: model_type: expected 'llava', found 'llama'",
        ),
        (
            ["{shelf}/vqrae", "{shelf}/odd/gray.png"],
            "vqrae/config.json: model_type: expected 'llava', found 'vqrae'",
        ),
        (["{shelf}/vqrae", "{shelf}/gone.png"], "gone.png: No such file"),
        (["{shelf}/vqrae", "{shelf}/texts/notes.txt"], "notes.txt: not an image"),
        (["{shelf}/vqrae", "{shelf}/torn/torn.jpg"], "torn.jpg: image file is truncated"),
        (
            ["{shelf}/vqrae", "{shelf}/bombs/bomb.png"],
            "bomb.png: 400000000 pixels, over the limit of 89478485",
        ),
        (
            ["{shelf}/vqrae", "{shelf}/odd/gray.png", "--temperature", "nan"],
            "temperature: expected 0 or more",
        ),
        (
            ["{shelf}/vqrae", "{shelf}/odd/gray.png", "--max-new-tokens", "0"],
            "max_new_tokens: expected 1 or more",
        ),
    ],
)
def test_asking_refuses(
    word: str,
    arguments: list[str],
    named: str,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(cli.main, word, *arguments, *(["What is it?"] if word == "ask" else [])) == 2
    assert named in the_error(capsys.readouterr().err)


def test_a_file_of_questions_for_another_model(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "What?"}\n')
    words = ("ask", "{shelf}/vqrae", "--file", "{out}/questions.jsonl", "--out", "{out}/answers.jsonl")
    assert command(cli.main, *words) == 2
    assert "model_type: expected 'llava'" in the_error(capsys.readouterr().err)
    assert not (tmp_path / "answers.jsonl").exists()
