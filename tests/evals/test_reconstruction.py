"""The evaluation and the `vqrae reconstruct` command, end to end on a miniature model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vqrae
from common.errors import UserError
from common.metrics.reconstruction import ReconstructionMetrics
from common.models.encoder_loading import build_encoder
from common.models.vqrae import VQRAE
from evals.reconstruction import examples as shown
from evals.reconstruction import preprocessing, progress, score
from evals.reconstruction import run as reconstruction
from tokenizer import inference
from vqrae import cli
from vqrae.reconstruct import fitted

REPO = Path(__file__).parents[2]
COUNT = 11
SKIP = ["--skip-fid", "--skip-lpips", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random VQRAE that reads 32 px at patch 4 and writes 48 px at q = 6."""
    torch.manual_seed(0)
    architecture = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
    }
    model = VQRAE.from_encoder(build_encoder(architecture), 32, 16, output_patch_size=6)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((70 + index, 50), Image.Resampling.BICUBIC)
        (folder / f"class{index % 2}").mkdir(exist_ok=True)
        picture.save(folder / f"class{index % 2}" / f"{index:02}.png")
    return folder


def test_help_is_fast_and_loads_no_model_library() -> None:
    for module, function in (("evals.reconstruction.run", "main"), ("vqrae.cli", "dispatch")):
        call = f"try: m.{function}(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
        code = f"import sys, {module} as m\n{call}"
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
        )
        assert run.stdout.endswith("False\n") and "usage:" in run.stdout


def test_evaluation_writes_what_is_needed_to_repeat_it(
    model_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    reconstruction.main(
        [str(model_folder), "--images", str(pictures), "--output", str(tmp_path), "--batch-size", "4", *SKIP]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "per_image.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(COUNT))
    assert rows[0]["key"] == "class0/00.png" and rows[-1]["key"] == "class1/09.png"
    scores = results["scores"]
    assert results["counts"] == {"expected": COUNT, "scored": COUNT} and results["complete"] is True
    assert results["partial"] is False and results["settings"]["images_found"] == COUNT
    for name in ("psnr", "ssim"):
        assert scores[name] == pytest.approx(np.mean([row[name] for row in rows]))
    assert scores["tokens_per_code"] * 32 == COUNT * 8 * 8
    protocol = results["settings"]
    assert (results["protocol"], protocol["size"], protocol["crop"]) == ("titok, 48 px", 48, "center")
    assert (protocol["encoder_size"], protocol["decoder_size"]) == ([32, 32], [48, 48])
    assert len(results["model"]["weights_sha256"]) == 64 and results["versions"]["torch"]
    for name in ("reconstructions.png", "worst.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 2 * 48


def test_scores_do_not_depend_on_batch_or_workers(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    scores = []
    for batch, workers in ((1, 0), (5, 2)):
        out = tmp_path / str(batch)
        arguments = [str(model_folder), "--images", str(pictures), "--output", str(out), "--size", "24"]
        reconstruction.main([*arguments, *SKIP, "--batch-size", str(batch), "--workers", str(workers)])
        scores.append(json.loads((out / "results.json").read_text())["scores"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_an_interrupted_evaluation_goes_on(
    model_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is scored twice, and the outcome is that of one call, to the last byte; other settings begin anew."""
    monkeypatch.setattr(progress, "SAVE_SECONDS", 0.0)
    original, seen = ReconstructionMetrics.update, []

    def update(self: Any, *inputs: Any) -> Any:
        seen.append(len(inputs[0]))
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return original(self, *inputs)

    monkeypatch.setattr(ReconstructionMetrics, "update", update)

    def run(name: str, batch: int = 3) -> int:
        """How many pictures were scored."""
        seen.clear()
        arguments = [str(model_folder), "--images", str(pictures), "--output", str(tmp_path / name)]
        reconstruction.main([*arguments, *SKIP, "--batch-size", str(batch)])
        return sum(seen)

    stop_at = 0
    assert run("whole") == COUNT
    stop_at = 3
    for name in ("resumed", "anew"):
        with pytest.raises(KeyboardInterrupt):
            run(name)
    stop_at = 0
    assert run("resumed") == COUNT - 6 and run("anew", batch=4) == COUNT
    for name in ("per_image.jsonl", "reconstructions.png", "worst.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    whole, resumed = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "resumed")
    )
    assert whole["scores"] == resumed["scores"]
    assert not (tmp_path / "resumed" / "progress").exists()


def test_pictures_that_were_changed_are_scored_again(
    model_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former call's progress is of those that it saw, not of what has their names now."""
    monkeypatch.setattr(progress, "SAVE_SECONDS", 0.0)
    shutil.copytree(pictures, tmp_path / "pictures")
    words = [str(model_folder), "--images", str(tmp_path / "pictures"), "--output", str(tmp_path / "out")]
    original, batches = ReconstructionMetrics.update, []

    def stop_at_the_third(self: Any, *inputs: Any) -> Any:
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return original(self, *inputs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ReconstructionMetrics, "update", stop_at_the_third)
        reconstruction.main([*words, *SKIP, "--batch-size", "3"])
    first = tmp_path / "pictures" / "class0" / "00.png"
    Image.new("RGB", (60, 50), "red").save(first)
    reconstruction.main([*words, *SKIP, "--batch-size", "3"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "per_image.jsonl").read_text().splitlines()]
    reconstruction.main([*words[:3], "--output", str(tmp_path / "anew"), *SKIP, "--batch-size", "3"])
    expected = [json.loads(line) for line in (tmp_path / "anew" / "per_image.jsonl").read_text().splitlines()]
    assert rows == expected and len(rows) == COUNT


def test_limit_marks_the_result_partial(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    reconstruction.main(
        [str(model_folder), "--images", str(pictures), "--output", str(tmp_path), "--limit", "3", *SKIP]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["partial"] is True and results["settings"]["images_found"] == COUNT
    assert results["counts"] == {"expected": 3, "scored": 3}


def test_protocols_cut_and_squash(pictures: Path) -> None:
    path = str(pictures)
    with Image.open(pictures / "class0" / "00.png") as picture:  # 70 x 50
        middle = np.asarray(picture.convert("RGB").resize((67, 48), Image.Resampling.BICUBIC))[:, 10:58]
        whole = np.asarray(picture.convert("RGB").resize((48, 48), Image.Resampling.BICUBIC))
    for protocol, expected in (("titok", middle), ("squash", whole)):
        loader = preprocessing.open_pictures(path, protocol, 48, 4, 0, 1, 0, None)
        first = next(iter(loader))["pixels"][0]
        assert np.array_equal(first.permute(1, 2, 0).numpy(), expected), protocol


def test_squash_reports_the_other_ssim_beside_the_right_one(
    model_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = [str(model_folder), "--images", str(pictures), "--output", str(tmp_path), *SKIP]
    reconstruction.main([*arguments, "--protocol", "squash"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["crop"] == "none" and results["protocol"] == "squash, 48 px"
    assert results["scores"]["ssim_data_range_2"] != results["scores"]["ssim"]


def test_reconstruction_equals_forward_where_no_resize_is_needed(model_folder: Path) -> None:
    model, _ = inference.load_model(str(model_folder))
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    rebuilt, codes = inference.reconstruct(model, pixels)
    with torch.no_grad():
        output = model(pixels)
    assert torch.equal(codes, output.codes)
    torch.testing.assert_close(rebuilt, output.reconstruction.clamp(0, 1))


def test_other_sizes_come_back_at_their_size(model_folder: Path) -> None:
    model, _ = inference.load_model(str(model_folder))
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pixels = torch.rand(1, 3, 24, 24)
    rebuilt, codes = inference.reconstruct(model, pixels)
    assert rebuilt.shape == pixels.shape and codes.shape == (1, 8, 8) and seen[0].shape[-2:] == (32, 32)
    assert rebuilt.min() >= 0 and rebuilt.max() <= 1
    wide, codes = inference.reconstruct(model, torch.rand(1, 3, 48, 96), grid=(8, 16))
    assert wide.shape == (1, 3, 48, 96) and codes.shape == (1, 8, 16) and seen[1].shape[-2:] == (32, 64)


def test_worst_and_first_pictures_of_all_ranks() -> None:
    psnr = np.random.default_rng(0).permutation(40).astype(float)
    picture = torch.zeros(3, 2, 2, dtype=torch.uint8)
    ranks = []
    for rank in range(3):
        examples = shown.Examples(count=4)
        for index in range(rank, 40, 3):
            examples.add(index, psnr[index], picture, picture)
        ranks.append(([{"index": index} for index in range(rank, 40, 3)], examples))
    dist = shown.dist
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "gather_objects", lambda value: ranks)
        rows, merged = shown.gather(*ranks[0])
    assert [row["index"] for row in rows] == list(range(40))
    assert [example.index for example in merged.first] == [0, 1, 2, 3]
    assert [example.psnr for example in merged.worst] == [0, 1, 2, 3]


def test_bad_input_is_one_line(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torn.png").write_bytes((pictures / "class0" / "00.png").read_bytes()[:200])
    other, half, junk = tmp_path / "other", tmp_path / "half", tmp_path / "junk"
    for folder in (other, half, junk):
        folder.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    config = json.loads((model_folder / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**config, "codebook_size": 64}))
    (half / "model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes())
    (junk / "config.json").write_text((model_folder / "config.json").read_text())
    (junk / "model.safetensors").write_bytes(b"junk")
    good, images = str(model_folder), str(pictures)
    cases = [
        ([str(tmp_path / "absent"), "--images", images], "absent"),
        ([str(tmp_path / "empty"), "--images", images], "config.json"),
        ([str(other), "--images", images], "model_type"),
        ([str(half), "--images", images], "half"),
        ([str(junk), "--images", images], "junk"),
        ([good, "--images", str(tmp_path / "nowhere")], "nowhere"),
        ([good, "--images", str(tmp_path / "empty")], "empty"),
        ([good, "--images", str(broken)], "torn.png"),
        ([good, "--images", images, "--device", "nonsense"], "--device"),
    ]
    for arguments, names in cases:
        with pytest.raises(UserError) as error:
            reconstruction.main([*SKIP, *arguments, "--output", str(tmp_path / "out")])
        assert names in str(error.value) and "\n" not in str(error.value)


def test_generator_folder_names_its_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "vqrae").symlink_to(model_folder)
    assert inference.load_model(str(tmp_path))[1] == tmp_path / "vqrae"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((70, 50), (66, 48)),
        ((50, 70), (48, 66)),
        ((1, 1), (48, 48)),
        ((100, 101), (48, 48)),
        ((80, 10), (384, 48)),
    ],
)
def test_pictures_keep_their_aspect_ratio(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = fitted(Image.new("RGB", shape), size=48, patch=6, square=False)
    assert (pixels.shape[2], pixels.shape[1]) == expected
    assert fitted(Image.new("RGB", shape), size=48, patch=6, square=True).shape == (3, 48, 48)


def test_command_writes_one_picture(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    one = str(pictures / "class0" / "00.png")
    for options, size in (
        ([], (66, 48)),
        (["--square"], (48, 48)),
        (["--side-by-side"], (132, 48)),
        (["--size", "24"], (36, 24)),
    ):
        cli.dispatch(
            ["reconstruct", str(model_folder), one, str(tmp_path / "out.png"), "--device", "cpu", *options]
        )
        with Image.open(tmp_path / "out.png") as picture:
            assert picture.size == size
    cli.dispatch(["reconstruct", str(model_folder), one, str(tmp_path / "folder"), "--device", "cpu"])
    assert (tmp_path / "folder" / "00.png").is_file()


def test_command_writes_a_folder(
    model_folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        Image.new("RGB", (50, 50), "red").save(source / name)
    (source / "torn.png").write_bytes(b"no picture")
    cli.dispatch(["reconstruct", str(model_folder), str(source), str(tmp_path / "out"), "--device", "cpu"])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.jpg.png", "a.png.png", "b.png"]
    captured = capsys.readouterr()
    assert "torn.png" in captured.err and "wrote 3 pictures" in captured.out


def test_command_refuses_bad_input(model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"no picture")
    (tmp_path / "file").write_text("")
    one = str(pictures / "class0" / "00.png")
    cases = [
        (str(tmp_path / "absent.png"), "out.png", [], "absent.png"),
        (str(tmp_path / "torn.png"), "out.png", [], "torn.png"),
        (str(pictures), "file", [], "file"),
        (one, "out.jpg", [], ".png"),
        (one, "out.png", ["--size", "50"], "--size"),
        (one, "file/out.png", [], "cannot be written"),
    ]
    for source, target, options, names in cases:
        with pytest.raises(UserError) as error:
            cli.dispatch(
                [
                    "reconstruct",
                    str(model_folder),
                    source,
                    str(tmp_path / target),
                    "--device",
                    "cpu",
                    *options,
                ]
            )
        assert names in str(error.value) and "\n" not in str(error.value)


def test_public_names_are_lazy() -> None:
    code = "import sys, vqrae; vqrae.__version__; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
    assert vqrae.VQRAE is VQRAE


def test_shell_wrapper_prints_help() -> None:
    script = REPO / "evals" / "run_reconstruction.sh"
    run = subprocess.run(["bash", str(script), "--help"], cwd="/", capture_output=True, text=True, check=True)
    assert "--images" in run.stdout


def test_networks_are_built_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors for absent weights must name both ways out."""
    from tokenizer import pretrained

    asked: list[tuple[str | None, str]] = []

    def record(weights: str | None, option: str) -> torch.nn.Module:
        asked.append((weights, option))
        network = torch.nn.Identity()
        network.num_features = 4
        return network

    monkeypatch.setattr(pretrained, "load_lpips", record)
    monkeypatch.setattr(pretrained, "load_inception_fid", record)
    model = SimpleNamespace(config=SimpleNamespace(codebook_size=8))
    cpu = torch.device("cpu")
    score.build_metrics(model, cpu, ssim_range_2=False, lpips_weights="v.pth", inception_weights="i.pth")
    assert asked == [
        ("v.pth", "--lpips-weights (or --skip-lpips)"),
        ("i.pth", "--inception-weights (or --skip-fid)"),
    ]
