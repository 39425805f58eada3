"""The documentation keeps its promises: links, commands, options, config keys and quoted errors are real ones."""

from __future__ import annotations

import re
from pathlib import Path

import docs_checks as checks
import pytest
from docs_checks import ROOT, Helps

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks/RESULTS.md",
]
RECIPES = sorted(ROOT.glob("*/recipes/*.yaml"))
PICTURE_BYTES = 150_000

slow = pytest.mark.slow  # some twenty processes, for their help
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def helps() -> Helps:
    """All commands that any page or recipe names, asked for their help side by side."""
    helps = Helps()
    texts = [path.read_text("utf-8") for path in PAGES] + [_head(path) for path in RECIPES]
    called = []
    for words in (words for text in texts for words in checks.commands(text)):
        try:
            called.append(checks.target_of(words))
        except ValueError:  # a test of its own says so
            continue
    helps.ask(split[0] for split in called if split)
    helps.ask(checks.subcommand(*split, helps) for split in called if split)
    return helps


def _head(recipe: Path) -> str:
    """The commands that stand first in a recipe, as a page."""
    lines = [line[4:] for line in recipe.read_text("utf-8").splitlines() if line.startswith("#   ")]
    return "\n".join(["```bash", *lines, "```"])


@pages
def test_links_lead_somewhere(path: Path) -> None:
    assert not checks.check_links(path.read_text("utf-8"), path.parent)


@slow
@pages
def test_commands_work(path: Path, helps: Helps) -> None:
    found = checks.commands(path.read_text("utf-8"))
    assert not [problem for words in found for problem in checks.check_command(words, helps)]


@slow
def test_commands_of_recipes_work(helps: Helps) -> None:
    for recipe in RECIPES:
        found = checks.commands(_head(recipe))
        assert not [problem for words in found for problem in checks.check_command(words, helps)], recipe


@slow
@pages
def test_names_in_backticks_are_known(path: Path, helps: Helps) -> None:
    texts = [text for text in helps.known.values() if text]
    options = frozenset(option for text in texts for option in checks._OPTION.findall(text))
    options |= {option for launcher in checks.LAUNCHERS.values() for option in launcher}
    spans = checks.spans(path.read_text("utf-8"))
    assert not [problem for span in spans for problem in checks.check_span(span, options)]


@pages
def test_blocks_of_code_fit(path: Path) -> None:
    page = path.read_text("utf-8")
    problems = [problem for text in checks.blocks(page, "yaml") for problem in checks.check_yaml(text)]
    problems += [problem for text in checks.blocks(page, "python") for problem in checks.check_python(text)]
    assert not problems


@pages
def test_quoted_errors_are_the_codes_own(path: Path) -> None:
    quoted = [line for text in checks.blocks(path.read_text("utf-8"), "text") for line in text.splitlines()]
    assert not [problem for line in quoted for problem in checks.check_message(line)]


def test_the_first_page_is_one_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 160
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, f"{page.name} is on no map"


def test_decisions_have_their_text() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    told = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert told == list(range(1, len(told) + 1))
    code = (ROOT / name for name in checks.tracked() if name.endswith((".py", ".yaml")))
    referred = {
        int(number) for path in code for number in re.findall(r"decision (\d+)", path.read_text("utf-8"))
    }
    assert referred and referred <= set(told)


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size <= PICTURE_BYTES, picture.name


# ---- The checks themselves: a planted fault is found, its sound neighbour passes ---------------------------


HELPS = {
    ("python", "tokenizer/train.py"): "usage: train.py [--config CONFIG] [--dry-run] [--gpus GPUS]",
    ("python", "-m", "evals.cluster_figure"): "usage: cluster_figure [--images DIR] [--output DIR] MODEL",
    ("bash", "scripts/demo.sh"): "bash scripts/demo.sh --resume   go on",
    ("vqrae",): "usage: vqrae [-h] COMMAND ...",
    ("vqrae", "generate"): "usage: vqrae generate [-n N] --out DIR MODEL [PROMPT]",
}
RECIPE = "tokenizer/recipes/demo_stage1.yaml"


@pytest.mark.parametrize(
    "sound",
    [
        f"deepspeed --hostfile hosts tokenizer/train.py --config {RECIPE} batch.micro_size=16",
        "torchrun --nproc-per-node 8 -m vqrae.cli generate MODEL -n 4 --out DIR",
        'vqrae generate MODEL "a photo" -n 4 --out DIR  # some',
        "GPUS=8 python -m evals.cluster_figure MODEL --images DIR",
        "python tokenizer/train.py --config ... engine.nvme_path=... steps=3",
        "python tokenizer/train.py 'data.sources=[{kind: folder, path: x}]' evaluation.images=null",
        "bash scripts/demo.sh --resume",
        "hf download anything --of-theirs",
    ],
)
def test_a_sound_command(sound: str) -> None:
    (words,) = checks.commands(f"```bash\n{sound}\n```")
    assert not checks.check_command(words, HELPS.get)


@pytest.mark.parametrize(
    ("faulty", "named"),
    [
        ("python tokenizer/trian.py", "trian.py --help` fails"),
        ("python -m evals.cluster_figures MODEL", "cluster_figures --help` fails"),
        ("bash scripts/demo.sh --resum", "--resum: no such option"),
        ("vqrae generate MODEL --output DIR", "--output: no such option"),
        ("vqrae draw MODEL", "vqrae draw --help` fails"),
        ("deepspeed --hosts x tokenizer/train.py", "--hosts: not on the list"),
        ("pyton tokenizer/train.py", "pyton: neither"),
        ("python tokenizer/train.py --config tokenizer/recipes/demo.yaml", "demo.yaml: no such file"),
        ("python tokenizer/train.py batch.micro_sise=16", "batch.micro_sise: no such config key"),
        (
            "python tokenizer/train.py data.packing=true",
            "data.packing: no such config key",
        ),  # understanding's
        ("python tokenizer/train.py steps=many", "steps=many: not a value"),
        (
            f"python tokenizer/train.py --config {RECIPE} engine.precision=bf16",
            "engine.precision: the codebook needs float32",
        ),
    ],
)
def test_a_faulty_command(faulty: str, named: str) -> None:
    (words,) = checks.commands(f"```bash\n{faulty}\n```")
    (problem,) = checks.check_command(words, HELPS.get)
    assert named in problem


def test_commands_are_found() -> None:
    page = "`GPUS=2 bash scripts/demo.sh --resume`, a `python` of yours:\n```bash\nx=a/b  # name\npython $x.py\n```"
    assert checks.commands(page) == [
        ["python", "a/b.py"],
        ["GPUS=2", "bash", "scripts/demo.sh", "--resume"],
    ]


@pytest.mark.parametrize(
    ("sound", "faulty"),
    [
        ("`data.workers`", "`data.worker`"),
        ("`engine.offload=cpu`", "`engine.offload=gpu`"),
        ("`engine.offload=cpu`", "`engin.offload=cpu`"),
        ("`'model.lora={rank: 128, alpha: 256}'`", "`'model.lora={rnk: 128, alpha: 256}'`"),
        ("`model.lora`", "`modle.lora`"),
        ("`data.sources.samples`", "`data.sources.sample`"),
        ("`encoder_lr`", "`enocder_lr`"),
        ("`--skip-fid --skip-lpips`", "`--skip-fid --skip-lpip`"),
        ("`tokenizer/train.py`", "`tokenizer/trian.py`"),
        ("`summary.json`", "`sumary.json`"),
        ("`common.errors.UserError`", "`common.errors.UsrError`"),
        ("`RUN/anything/there`", "`tests/nothing/there`"),
    ],
)
def test_names_in_backticks(sound: str, faulty: str) -> None:
    options = frozenset({"--skip-fid", "--skip-lpips"})
    assert not [problem for span in checks.spans(sound) for problem in checks.check_span(span, options)]
    assert [problem for span in checks.spans(faulty) for problem in checks.check_span(span, options)]


def test_links(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading, `with` code\n## Twice\n## Twice\n")
    sound = "# Here\n[a](other.md#a-heading-with-code) [b](#here) ![c](other.md) [d](https://x.y) [e](other.md#twice-1)"
    assert not checks.check_links(sound, tmp_path)
    for fault in ("[a](othr.md)", "![a](gone.png)", "[a](other.md#a-heading)", "[a](#her)"):
        assert len(checks.check_links(f"{sound}{fault}", tmp_path)) == 1


def test_blocks_of_code() -> None:
    assert not checks.check_yaml("data: {image_size: 256, sources: [{kind: folder, path: x}]}")
    assert checks.check_yaml("data: {image_sizes: 256}") and checks.check_yaml("data: {image_size: big}")
    assert checks.check_yaml("data: {sources: [{kind: foldr, path: x}]}")
    assert not checks.check_python("from vqrae import VQRAE\nfrom elsewhere import anything")
    assert checks.check_python("from vqrae import VQREA") and checks.check_python(
        "from common.error import UserError"
    )


def test_quoted_errors() -> None:
    assert not checks.check_message("error: step ...: not finite: ... on rank ...")
    assert not checks.check_message("error: ...: engine.zero_stage: the generator supports 0, 1 and 2 (...)")
    assert not checks.check_message(
        "error: ...: cannot be written: ..., on rank ...; the last whole checkpoint is ..."
    )
    assert checks.check_message(
        "error: ...: cannot be written: ..., on rnak ...; the last whole checkpoint is ..."
    )
    assert checks.check_message("error: step ...: infinite: ... on rank ...")
