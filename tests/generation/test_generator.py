"""From a saved folder to pictures: the Python API, the folder of PNGs, and `vqrae generate`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generator
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from common.errors import UserError, run_cli
from generation.batches import FIXED_ROWS, Batch, jobs_for
from generation.drawing import Drawing
from generation.generator import Generator
from generation.model_folder import load_generator
from generation.picture_folder import Drawn, draw, geneval, write_pictures
from generation.picture_record import batch_size_of
from generation.prompt import prompt_ids
from generation.sampler import Sampler, Sampling, picture_key
from generation.sampling_file import as_json
from vqrae import cli
from vqrae.generate import read_prompts

PROMPTS = ["a photo of a red circle", "two blue squares", "", "红色的圆, دائرة"]
SAMPLING = Sampling(cfg_scale=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    tiny_generator.write_generator(folder)
    return folder


@pytest.fixture(scope="module")
def generator(folder: Path) -> Generator:
    return Generator.from_pretrained(str(folder))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---- the Python API --------------------------------------------------------------------------------------


def test_pictures_are_the_decoded_samples(generator: Generator, folder: Path) -> None:
    pictures = generator.generate(PROMPTS, n=2, seed=5, sampling=SAMPLING, batch_size=3)
    assert [len(row) for row in pictures] == [2] * len(PROMPTS)
    parts = tiny_generator.write_generator(folder)
    sampler = Sampler(parts.model, parts.vocabulary)
    for prompt, row in zip(PROMPTS, pictures, strict=True):
        codes = sampler.sample(
            [prompt_ids(parts.text_tokenizer, prompt)],
            prompt_ids(parts.text_tokenizer, None),
            owners=[0, 0],
            keys=[picture_key(5, prompt, sample) for sample in range(2)],
            sampling=SAMPLING,
        )
        expected = parts.vqrae.decode(codes.unflatten(1, parts.vocabulary.grid))
        for picture, wanted in zip(row, expected, strict=True):
            assert picture.size == (16, 16) and picture.mode == "RGB"
            found = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
            torch.testing.assert_close(found, wanted, atol=0.6 / 255, rtol=0)


def test_one_prompt_may_stand_alone(generator: Generator) -> None:
    (alone,) = generator.generate(PROMPTS[0], n=3, sampling=SAMPLING)
    (listed,) = generator.generate([PROMPTS[0]], n=3, sampling=SAMPLING, batch_size=1)
    assert [picture.tobytes() for picture in alone] == [picture.tobytes() for picture in listed]
    assert len({picture.tobytes() for picture in alone}) == 3


@pytest.mark.parametrize("tokens", [36, 9, 64, 15, 1, 0, -4])
def test_a_grid_that_was_not_trained_is_refused(generator: Generator, tmp_path: Path, tokens: int) -> None:
    refused = r"tokens: this generator was trained on 16 codes \(4 x 4\) alone, found"
    with pytest.raises(UserError, match=refused):
        generator.generate("x", tokens=tokens)
    with pytest.raises(UserError, match=refused):
        write(generator, tmp_path / "out", tokens=tokens)
    assert not (tmp_path / "out").exists()
    assert generator.generate("x", tokens=16)[0][0].size == (16, 16)


def test_long_prompts(generator: Generator) -> None:
    long = "word " * 10_000
    with pytest.raises(UserError, match="tokens, but 42 fit beside a picture") as refused:
        generator.generate(long)
    assert len(str(refused.value)) < 200
    assert len(generator.prompt_ids(long, truncate=True)) == 43  # begin_image is never cut
    assert generator.generate(long, truncate=True)[0][0].size == (16, 16)


def test_arguments_that_are_refused(generator: Generator) -> None:
    with pytest.raises(ValueError, match="top_k: expected at most the 32 codes"):
        generator.generate("x", sampling=Sampling(top_k=33))
    with pytest.raises(ValueError, match="n, batch_size"):
        generator.generate("x", n=0)


def test_names_of_the_package() -> None:
    import vqrae

    assert vqrae.Generator is Generator and vqrae.Sampling is Sampling


# ---- a folder of pictures --------------------------------------------------------------------------------


def write_all(generator: Generator, out: Path, prompts: list[str] = PROMPTS, **changes: Any) -> Drawn:
    given: dict[str, Any] = {"seed": 3, "stated": {"cfg_scale": 2.0}, "batch_size": 3, **changes}
    more = {key: given.pop(key) for key in ("naming", "source", "numbers", "overwrite") if key in given}
    return write_pictures(generator, prompts, given.pop("n", 2), out, Drawing(**given), **more)


@pytest.mark.parametrize("name", ["sheet.png", "00001_0000.png"])
def test_a_users_files_are_not_drawn_over(name: str, generator: Generator, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / name, "PNG" if name == "sheet.png" else "BMP")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match=f"{name}: (is there already, and VQRAE did not|another picture)"):
        write(generator, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before
    write(generator, tmp_path, overwrite=True)
    assert (tmp_path / name).read_bytes() != before
    write(generator, tmp_path)  # by now they are ours


def write(generator: Generator, out: Path, prompts: list[str] = PROMPTS, **changes: Any) -> list[Path]:
    return write_all(generator, out, prompts, **changes).files


def test_every_picture_tells_what_made_it(generator: Generator, tmp_path: Path) -> None:
    files = write(generator, tmp_path / "out", source="some/model")
    assert [file.name for file in files[:3]] == ["00000_0000.png", "00000_0001.png", "00001_0000.png"]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    for job, file in zip(jobs_for(PROMPTS, 2), files, strict=True):
        with Image.open(file) as picture:
            text = picture.text  # type: ignore[attr-defined]
            assert picture.size == (16, 16)
        assert text["prompt"] == job.prompt and text["seed"] == "3"
        assert (text["prompt_index"], text["sample_index"]) == (str(job.prompt_index), str(job.sample_index))
        stated = json.loads(text["settings"])
        assert stated.pop("batch_size") == 3 == batch_size_of(file)
        assert stated.items() <= settings.items()
        assert stated["model"] == "some/model" and stated["sampling"]["cfg_scale"] == 2.0
    assert pixels(tmp_path / "out" / "sheet.png").std() > 10


def test_a_stopped_call_goes_on_and_ends_the_same(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(generator, tmp_path / "whole")
    drawn: list[int] = []
    draw = Generator.draw

    def stopping(self: Generator, batch: Batch, *rest: Any, **more: Any) -> Any:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(len(batch.rows))
        return draw(self, batch, *rest, **more)

    monkeypatch.setattr(Generator, "draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        write(generator, tmp_path / "parts")
    assert drawn == [3, 3] and len(list((tmp_path / "parts").glob("0*.png"))) == 6
    drawn[:] = [0]
    files = write(generator, tmp_path / "parts")
    assert drawn == [0, 3]  # only the last batch, filled up to the size of the others
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in whole]
    before = [file.stat().st_mtime_ns for file in files]
    write(generator, tmp_path / "parts")
    assert [file.stat().st_mtime_ns for file in files] == before


def test_two_processes_write_the_same_files(
    folder: Path, generator: Generator, tmp_path: Path, pair: Any
) -> None:
    alone = write(generator, tmp_path / "alone")
    arguments = {"model": str(folder), "prompts": PROMPTS, "n": 2, "batch_size": 3}
    names = pair.run("write_pictures", folder=str(tmp_path / "pair"), **arguments)
    assert names == [[file.name for file in alone]] * 2
    for file in alone:
        assert np.array_equal(pixels(file), pixels(tmp_path / "pair" / file.name))


def test_pictures_are_kept_one_by_one(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer prompts, more pictures of each and a smaller batch are calls of one folder; what is there stays."""
    out, whole = tmp_path / "out", write(generator, tmp_path / "whole", n=3)
    batches: list[Batch] = []
    draw = Generator.draw

    def watched(self: Generator, batch: Batch, *rest: Any, **more: Any) -> Any:
        batches.append(batch)
        return draw(self, batch, *rest, **more)

    monkeypatch.setattr(Generator, "draw", watched)
    last = len(PROMPTS) - 1
    few = write_all(generator, out, [PROMPTS[last]], numbers=[last], n=1)
    assert [file.name for file in few.files] == [f"{last:05d}_0000.png"] and (few.kept, few.damaged) == (0, 0)
    before = few.files[0].read_bytes()
    more = write_all(generator, out, n=2, batch_size=2)
    assert (len(more.files), more.kept) == (2 * len(PROMPTS), 1) and few.files[0].read_bytes() == before
    batches.clear()
    most = write_all(generator, out, n=3)
    assert str(most) == f"{len(PROMPTS)} pictures drawn, {2 * len(PROMPTS)} were there"
    # Third pictures are behind all seconds: batches of 3 of which the first two thirds are there.
    assert sum(len(batch.jobs) for batch in batches) <= len(PROMPTS) + 2
    sizes = [batch_size_of(file) for file in most.files]
    assert {size: sizes.count(size) for size in set(sizes)} == {
        1: 1, 2: 2 * len(PROMPTS) - 1, 3: len(PROMPTS)
    }  # fmt: skip
    for ours, theirs in zip(most.files, whole, strict=True):
        assert np.abs(pixels(ours).astype(int) - pixels(theirs)).max() <= 1


def test_damaged_pictures_are_drawn_again_and_others_are_not_touched(
    generator: Generator, tmp_path: Path
) -> None:
    files = write(generator, tmp_path)
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(before[1][: len(before[1]) - 20])
    flipped = bytearray(before[2])
    flipped[-30] ^= 1
    files[2].write_bytes(flipped)
    files[3].unlink()
    again = write_all(generator, tmp_path)
    assert [file.read_bytes() for file in files] == before
    kept = len(files) - 4
    assert str(again) == f"4 pictures drawn (3 of them anew: they were damaged), {kept} were there"
    Image.new("RGB", (16, 16)).save(files[0])  # somebody's own
    mine = files[0].read_bytes()
    files[1].unlink()
    with pytest.raises(UserError, match=r"00000_0000.png: another picture \(.*: None, now"):
        write(generator, tmp_path)
    assert files[0].read_bytes() == mine and not files[1].exists()
    write(generator, tmp_path, overwrite=True)
    assert [file.read_bytes() for file in files] == before


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"seed": 4}, r"other settings \(seed: 3, now 4"),
    ({"stated": {"cfg_scale": 2.5}}, r"other settings \(sampling: "),
    ({"deterministic": True}, r"other settings \(deterministic: False, now True"),
    ({"prompts": ["another"]}, r"00000_0000.png: another picture \(prompt: .*, now 'another'"),
]


def test_pictures_of_other_settings_are_not_mixed(generator: Generator, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(generator, out, PROMPTS[:1], n=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for changes, named in OTHERS:
        with pytest.raises(UserError, match=named):
            write(generator, out, **{"prompts": PROMPTS[:1], "n": 1, **changes})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    for changes, _ in OTHERS:  # one over the other
        assert (
            write_all(generator, out, overwrite=True, **{"prompts": PROMPTS[:1], "n": 1, **changes}).kept == 0
        )
    (out / "settings.json").write_text("{")
    with pytest.raises(UserError, match="not a record of settings"):
        write(generator, out, PROMPTS[:1], n=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(generator, tmp_path / "file", PROMPTS[:1], n=1)


def test_the_layout_of_geneval(generator: Generator, tmp_path: Path) -> None:
    files = write(generator, tmp_path, PROMPTS[:2], naming=geneval)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"0000{prompt}/samples/000{sample}.png" for prompt in range(2) for sample in range(2)
    ]


# ---- settings of the folder ------------------------------------------------------------------------------


def test_a_folder_brings_its_settings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Sampling(cfg_scale=3.0, temperature=0.8, top_k=20)
    parts = replace(load_generator(str(folder)), sampling=own, origin="a test")
    parts.save_pretrained(tmp_path / "model")
    generator = Generator.from_pretrained(str(tmp_path / "model"))
    assert generator.sampling == own and generator.origin.endswith("sampling.json: a test")
    (by_itself,), (stated,) = generator.generate("x"), generator.generate("x", sampling=own)
    (otherwise,) = generator.generate("x", sampling=Sampling(cfg_scale=5.0))
    assert by_itself[0].tobytes() == stated[0].tobytes() != otherwise[0].tobytes()
    drawing = Drawing(stated={"temperature": 1.0, "top_k": None})
    draw(drawing, str(tmp_path / "model"), ["x"], 1, tmp_path / "out")
    recorded = json.loads((tmp_path / "out" / "settings.json").read_text())["sampling"]
    assert recorded == {**as_json(own), "temperature": 1.0, "top_k": None}
    said = capsys.readouterr().out
    assert "sampling: guidance 3, temperature 1, all codes (" in said
    assert "sampling.json: a test; stated here: temperature, top_k)" in said


def test_a_folder_without_settings_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "sampling.json").unlink()
    draw(Drawing(), str(old), ["x"], 1, tmp_path / "out")
    assert f"sampling: {Sampling()} (the defaults: {old} has no sampling.json)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cfg_scale": 1e38}, "cfg_scale: expected 0 to 1000"),
        ({"cfg_scale": "strong"}, "cfg_scale"),
        ({"sauce": 1}, "sauce: unknown key"),
        ({"top_k": 33}, "top_k: expected at most the 32 codes"),
        ({"temperature": None}, "temperature"),
        (None, "sampling: expected the settings"),
    ],
    ids=str,
)
def test_settings_of_a_folder_that_are_refused(folder: Path, tmp_path: Path, change: Any, named: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "sampling.json"
    stated = {"sampling": {**as_json(Sampling()), **change}} if change else []
    path.write_text(json.dumps(stated))
    with pytest.raises(UserError, match=f"sampling.json: .*{named}"):
        load_generator(str(tmp_path / "model"))


def test_transformers_reads_the_settings_too(folder: Path, tmp_path: Path) -> None:
    """Its own `generate`, told nothing but which ids are codes, draws what ours draws."""

    class CodesOnly(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            allowed = torch.full_like(scores, -torch.inf)
            allowed[:, vocabulary.code_slice] = 0
            return scores + allowed

    parts = replace(load_generator(str(folder)), sampling=Sampling(cfg_scale=2.0, greedy=True))
    parts.save_pretrained(tmp_path / "model")
    generator, vocabulary = Generator.from_pretrained(str(tmp_path / "model")), parts.vocabulary
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = torch.tensor([generator.prompt_ids(PROMPTS[0])])
    out = theirs.generate(ids, logits_processor=LogitsProcessorList([CodesOnly()]), pad_token_id=0)
    codes = generator.codes(Batch(tuple(jobs_for(PROMPTS[:1], 1))), 0, generator.sampling)
    assert torch.equal(vocabulary.ids_to_codes(out[0, ids.shape[1] :]), codes.flatten())


def test_logits_that_are_not_finite_are_an_error(folder: Path, tmp_path: Path) -> None:
    parts = load_generator(str(folder))
    parts.model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(UserError, match="logits are not finite in float32"):
        write(Generator(parts), tmp_path, PROMPTS[:1])
    assert not list(tmp_path.glob("0*.png"))


# ---- equal pictures --------------------------------------------------------------------------------------


def drawn_by_prompt(generator: Generator, prompts: list[str], **settings: Any) -> dict[str, list[bytes]]:
    rows = generator.generate(prompts, **{"n": 2, "seed": 3, **settings})
    return {prompt: [one.tobytes() for one in row] for prompt, row in zip(prompts, rows, strict=True)}


WIDE = {
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 32,
}  # fmt: skip


def test_pictures_of_bfloat16_depend_on_nothing_else(tmp_path: Path) -> None:
    """Batch size, order, number, longer and more neighbours, and a folder that was extended.

    The model is wide, its codes are many and its logits uneven enough for roundings to tip draws: with batches of one
    picture and of 16, two of these 24 pictures differ if no composition is fixed.
    """
    parts = tiny_generator.write_generator(tmp_path / "model", codes=256, side=6, **WIDE)
    torch.manual_seed(0)
    for parameter in parts.model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    generator = Generator(replace(parts, model=parts.model.to(torch.bfloat16)))
    settings = {"deterministic": True, "sampling": Sampling(cfg_scale=3.0)}
    prompts = [f"a photo of {number} red circles" for number in range(12)]
    whole = drawn_by_prompt(generator, prompts, **settings)
    assert len({one for row in whole.values() for one in row}) == 24
    for others in (
        {"prompts": prompts[::-1], "batch_size": 1},
        {"prompts": prompts[2:4], "n": 5},
        {"prompts": [prompts[0], "word " * 13, prompts[1]], "batch_size": 3},
    ):
        found = drawn_by_prompt(generator, **{**settings, **others})
        for prompt in set(found) & set(whole):
            assert found[prompt][:2] == whole[prompt], (prompt, others)
    drawing = {"deterministic": True, "stated": {"cfg_scale": 3.0}}
    write(generator, tmp_path / "out", prompts[1:3], n=1, numbers=[1, 2], **drawing)
    files = write(generator, tmp_path / "out", prompts[:3], n=2, batch_size=7, **drawing)
    assert [pixels(file).tobytes() for file in files] == [one for p in prompts[:3] for one in whole[p]]


def test_a_row_of_fixed_composition_does_not_see_the_others(generator: Generator) -> None:
    """Every picture has one row and one width of its own, and there are always as many rows."""
    jobs = jobs_for([*PROMPTS, "word " * 13], 20)
    batches = generator.batches(jobs, 1, deterministic=True)
    places = {job: (row, batch.width) for batch in batches for row, job in enumerate(batch.rows) if job}
    assert set(places) == set(jobs) and sum(len(batch.jobs) for batch in batches) == len(jobs)
    assert {len(batch.rows) for batch in batches} == {FIXED_ROWS}
    for job in jobs[::7]:
        (alone,) = generator.batches([job], 5, deterministic=True)
        assert (alone.rows.index(job), alone.width) == places[job]


# ---- `vqrae generate` ------------------------------------------------------------------------------------


@pytest.fixture
def command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`vqrae generate MODEL ... --out OUT` with `{folder}` and `{out}` filled in; its exit code."""

    def call(*arguments: str) -> int:
        words = [word.replace("{folder}", str(folder)).replace("{out}", str(tmp_path)) for word in arguments]
        monkeypatch.setattr(sys, "argv", ["vqrae", "generate", *words, "--out", str(tmp_path / "pictures")])
        try:
            run_cli(cli.dispatch)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_a_prompt_on_the_command_line(
    command: Callable[..., int], tmp_path: Path, generator: Generator
) -> None:
    options = "-n 3 --seed 9 --cfg-scale 3 --cfg-schedule linear --cfg-interval 0 0.8 --top-k 20 --top-p 0.9"
    assert (
        command("{folder}", "a red circle", *options.split(), "--temperature", "0.9", "--device", "cpu") == 0
    )
    sampling = Sampling(
        cfg_scale=3.0, cfg_schedule="linear", cfg_interval=(0.0, 0.8), temperature=0.9, top_k=20, top_p=0.9
    )
    (expected,) = generator.generate("a red circle", n=3, seed=9, sampling=sampling)
    for sample, picture in enumerate(expected):
        assert np.array_equal(pixels(tmp_path / "pictures" / f"00000_000{sample}.png"), np.asarray(picture))


def test_a_file_of_prompts(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"tag": "colors", "prompt": prompt}) for prompt in PROMPTS[:2]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    assert (
        command("{folder}", "--prompts", "{out}/prompts.jsonl", "-n", "2", "--greedy", "--device", "cpu") == 0
    )
    assert "4 pictures drawn, 0 were there" in capsys.readouterr().out
    assert len(list((tmp_path / "pictures").glob("0*.png"))) == 4


def test_an_empty_prompt_draws_without_one(command: Callable[..., int], tmp_path: Path) -> None:
    assert command("{folder}", "", "--device", "cpu") == 0
    assert (tmp_path / "pictures" / "00000_0000.png").is_file()


def test_lines_of_a_file_are_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.txt"
    text = "\ufeffa cat\r\n  红色的圆 \n\n \t\nfirst\u2028second\x85third\x0bfourth\n\n"
    path.write_bytes(text.encode())
    assert read_prompts(path) == ["a cat", "红色的圆", "first\u2028second\x85third\x0bfourth"]
    assert capsys.readouterr().out == f"{path}: 3 prompts; 3 empty lines left out\n"
    lines = path.with_suffix(".jsonl")
    lines.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n{"prompt": "c"}'.encode())
    assert read_prompts(lines) == ["a\u2028b", "c"] and not capsys.readouterr().out


def test_a_folder_is_extended_by_prompts_and_by_numbers(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"

    def names() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(out.glob("0*.png"))}

    assert command("{folder}", "a cat", "-n", "2", "--deterministic", "--device", "cpu") == 0
    first = names()
    assert command("{folder}", "a dog", "--deterministic", "--device", "cpu") == 0
    (tmp_path / "p.txt").write_text("a cow\na dog\na cat\na cow\n")
    assert (
        command("{folder}", "--prompts", "{out}/p.txt", "-n", "3", "--deterministic", "--device", "cpu") == 0
    )
    assert "6 pictures drawn, 3 were there" in capsys.readouterr().out
    assert list(names()) == [f"0000{p}_000{n}.png" for p in range(3) for n in range(3)]
    assert first.items() <= names().items()
    before = names()
    assert command("{folder}", "a cat", "--deterministic", "--device", "cpu", "--temperature", "0.9") == 2
    assert "holds pictures of other settings" in capsys.readouterr().err and names() == before
    call = ("{folder}", "a cat", "--deterministic", "--device", "cpu", "--temperature", "0.9", "--overwrite")
    assert command(*call) == 0
    assert {name for name, content in names().items() if content != before[name]} == {"00000_0000.png"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("{folder}", "either a prompt or --prompts"),
        ("{folder} x --prompts {out}/p.txt", "either a prompt or --prompts"),
        ("{folder} x -n 0", "-n: expected 1 or more"),
        ("{folder} x --batch-size 0", "--batch-size: expected 1 or more"),
        ("{folder} x --cfg-scale -1", "--cfg-scale: expected 0 to 1000, found -1"),
        ("{folder} x --cfg-schedule cubic", "--cfg-schedule: expected constant, linear or cosine"),
        ("{folder} x --cfg-interval 0.5 0.2", "--cfg-interval: expected 0 <= start"),
        ("{folder} x --temperature 0", "--temperature: expected 0.001 to 1000"),
        ("{folder} x --cfg-scale 1e38", "--cfg-scale: expected 0 to 1000, found 1e+38"),
        ("{folder} x --cfg-scale inf", "--cfg-scale: expected 0 to 1000, found inf"),
        ("{folder} x --cfg-scale nan", "--cfg-scale: expected 0 to 1000, found nan"),
        ("{folder} x --temperature -1", "--temperature: expected 0.001 to 1000"),
        ("{folder} x --temperature 1e-30", "--temperature: expected 0.001 to 1000"),
        ("{folder} x --seed -1", "--seed: expected 0 to 9223372036854775807, found -1"),
        ("{folder} x --seed 9223372036854775808", "--seed: expected 0 to"),
        ("{folder} x --top-k 0", "--top-k: expected 1 or more"),
        ("{folder} x --top-k -3", "--top-k: expected 1 or more"),
        ("{folder} x --top-k few", "--top-k: expected a whole number or all"),
        ("{folder} caf\udce9", "is no valid Unicode"),
        ("{folder} \ud83d", "is no valid Unicode"),
        ("{folder} --prompts {out}/nul.txt", "nul.txt: line 2: character 2 is a NUL"),
        ("{folder} --prompts {out}/half.jsonl", "half.jsonl: line 1: character 1 is no valid Unicode"),
        ("{folder} --prompts {out}/deep.jsonl", "deep.jsonl: line 1: no valid JSON: "),
        ("{folder} x --top-k 33", "--top-k: expected at most the 32 codes, found 33"),
        ("{folder} x --top-p 0", "--top-p: expected over 0"),
        ("{folder} x --tokens 15", "tokens: this generator was trained on 16 codes"),
        ("{folder} x --device nowhere", "--device nowhere"),
        ("{folder}/vqrae x", "not a generator"),
        ("{out}/gone x", "gone: no such folder"),
        ("{folder} --prompts {out}/gone.txt", "gone.txt: cannot be read"),
        ("{folder} --prompts {out}/empty.txt", "empty.txt: no prompts"),
        ("{folder} --prompts {out}/bytes.txt", "bytes.txt: expected text in UTF-8"),
        ("{folder} --prompts {out}/bad.jsonl", "bad.jsonl: line 1: expected an object with `prompt`"),
        ("{folder} --prompts {out}/long.txt", "fit beside a picture"),
    ],
)
def test_generate_refuses(
    arguments: str,
    named: str,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, content in (
        ("empty", b""),
        ("bytes", b"\xff\xfe\x00"),
        ("nul", b"a\nb\0c\n"),
        ("long", b"word " * 10_000),
    ):
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "bad.jsonl").write_text('["a"]\n')
    (tmp_path / "half.jsonl").write_text('{"prompt": "\\ud83d"}\n')
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    assert command(*arguments.split()) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and named in error and error.endswith("\n")
    assert error.count("error: ") == 1
    assert not (tmp_path / "pictures").exists()
