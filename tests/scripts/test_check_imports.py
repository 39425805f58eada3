"""The environment is looked through once it is made: a package that does not fit its neighbours is named."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from common.errors import UserError
from scripts import check_imports

ROOT = Path(__file__).parents[2]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]


@pytest.mark.parametrize("wanted", requirements(), ids=lambda wanted: wanted.name)
def test_every_pin_is_within_its_bounds(wanted: Requirement) -> None:
    assert wanted.specifier.contains(PINS[wanted.name]), f"{wanted} and {PINS[wanted.name]}"


def test_what_reads_a_tokenizer_model_can_be_imported() -> None:
    """As transformers does, beside the protobuf that is installed."""
    proto = importlib.import_module(check_imports.MODULES["sentencepiece"])
    assert proto.ModelProto.FromString(proto.ModelProto().SerializeToString()) == proto.ModelProto()


def test_all_that_is_asked_for_is_looked_at() -> None:
    project = ROOT / "pyproject.toml"
    looked_at = list(check_imports.packages(project, ["dev"]))
    assert looked_at == [w.name for w in requirements() if not w.name.startswith("types-")]
    assert set(check_imports.MODULES) < set(looked_at)
    assert list(check_imports.packages(project, ["evals"]))[-1] == "lmms-eval"
    with pytest.raises(UserError, match="no extra 'evil' there, only dev, s3, evals"):
        list(check_imports.packages(project, ["evil"]))


def test_a_package_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the kind that generated code raises beside an older runtime, two lines long; and one that is absent."""
    (tmp_path / "too_new.py").write_text("print('hello')\nraise RuntimeError('gencode 7\\nruntime 6')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(check_imports, "packages", lambda *_: ["packaging", "too-new", "gone-away"])
    with pytest.raises(UserError, match=r"^too-new, gone-away: cannot be imported, see above"):
        check_imports.main()
    told = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"import packaging +\d.*", told[0])
    assert re.fullmatch(r"import too_new +FAILED: RuntimeError: gencode 7 runtime 6", told[1])
    assert re.fullmatch(r"import gone_away +FAILED: ModuleNotFoundError: .*", told[2]) and len(told) == 3


def test_setup_looks_before_it_calls_the_environment_ready() -> None:
    script = (ROOT / "scripts/setup.sh").read_text(encoding="utf-8")
    assert (
        script.index("pip install") < script.index("scripts.check_imports") < script.index('touch "$stamp"')
    )
