"""DPG-Bench's rules on a CSV written by hand; grids, answers and the whole command on tiny models."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_generator
from PIL import Image
from tiny_chat import write_chat_model

from common.errors import UserError
from evals.dpg import judges as dpg_judges
from evals.dpg import run as dpg_bench
from evals.dpg.answers import ask_waiting, read_answers
from evals.dpg.judges import ChatJudge, grid_of, tiles
from evals.dpg.report import protocol
from evals.dpg.rules import cascade, item_score, read_items, scores

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)
# Prompt a: 2 hangs on 1, 3 on 2, 4 on 1 and 2. Prompt b: nothing hangs on anything.
ROWS = """\
a,"a red cat, on a mat",,1,0,entity,whole,entity - whole (cat),Is there a cat?
a,"a red cat, on a mat",,2,1,attribute,color,"attribute - color (cat, red)",Is the cat red?
a,"a red cat, on a mat",,3,2,other,count,"other - count (cat, ==1)",Is there one cat?
a,"a red cat, on a mat",,4,"1, 2",relation,spatial,"relation - spatial (cat, mat, on)",Is the cat on the mat?
b,an oil painting,,1,0,global,,"global - (oil painting)",Is this an oil painting?
b,an oil painting,,2,0,entity,whole,entity - whole (painting),Is there a painting?
"""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "dpg_bench.csv"
    path.write_text(HEADER + ROWS)
    return path


def said(*answers: str) -> list[dict[int, bool]]:
    """Answers of a picture each: `ynyy` is question 1 yes, 2 no ..."""
    return [{number: letter == "y" for number, letter in enumerate(tile, 1)} for tile in answers]


def test_the_csv_is_read(questions: Path) -> None:
    a, b = read_items(questions, "fixed")
    assert (a.name, a.text, list(a.questions)) == ("a", "a red cat, on a mat", [1, 2, 3, 4])
    assert a.questions[4].parents == (1, 2) and a.questions[1].parents == ()
    assert [one.category for one in (*a.questions.values(), *b.questions.values())] == [
        "entity",
        "attribute",
        "other",
        "relation",
        "global",
        "entity",
    ]
    first, _ = read_items(questions, "official")
    assert list(first.questions) == [2, 3, 4]  # the first row is dropped


@pytest.mark.parametrize(
    ("answers", "counted"),
    [
        ("yyyy", "yyyy"),
        ("nyyy", "nnnn"),
        ("ynyy", "ynnn"),
        ("yyny", "yyny"),
        ("yyyn", "yyyn"),
        ("nnnn", "nnnn"),
    ],
)
def test_a_no_goes_down_to_children_and_grandchildren(questions: Path, answers: str, counted: str) -> None:
    item = read_items(questions, "fixed")[0]
    assert [cascade(item, said(answers)[0])] == said(counted)


def test_a_child_that_stands_before_its_parent_sees_the_parents_answer_alone(questions: Path) -> None:
    questions.write_text(HEADER + "a,t,,3,2,,,x - y (z),q\na,t,,2,1,,,x - y (z),q\na,t,,1,0,,,x - y (z),q\n")
    (item,) = read_items(questions, "fixed")
    assert cascade(item, {1: False, 2: True, 3: True}) == {1: False, 2: False, 3: True}


def test_scores_of_both_ways(questions: Path) -> None:
    answers = {"a": said("yyyy", "nyyy", "ynyy", "yyny"), "b": said("yy", "yn", "nn", "ny")}
    fixed, dropped = scores(read_items(questions, "fixed"), answers, "fixed")
    # Counted of a: yyyy nnnn ynnn yyny; of b as said.
    assert not dropped
    assert fixed == pytest.approx(
        {
            "overall": 100 * (np.mean([1, 0, 1 / 4, 3 / 4]) + np.mean([1, 1 / 2, 0, 1 / 2])) / 2,
            "global": 50.0,
            "entity": 100 * (3 + 2) / 8,  # of both prompts
            "attribute": 50.0,
            "relation": 50.0,
            "other": 25.0,
        }
    )
    assert list(fixed) == ["overall", "global", "entity", "attribute", "relation", "other"]
    # Prompt a has lost the question that others hang on, so it drops out; of b, the last picture: n and y.
    official, dropped = scores(read_items(questions, "official"), answers, "official")
    assert dropped == ["a"] and official == pytest.approx({"overall": 50.0, "global": 0.0, "entity": 100.0})


def test_official_categories_are_the_last_pictures_answers_as_given(questions: Path) -> None:
    questions.write_text(HEADER + "0,,,1,0,,,x - y (z),dropped\n" + ROWS)
    answers = {"a": said("yyyy", "yyyy", "yyyy", "nyyn"), "b": said("yy", "yy", "yy", "yy")}
    items = read_items(questions, "official")
    assert [item.name for item in items] == ["a", "b"]
    official, dropped = scores(items, answers, "official")
    assert not dropped and item_score(items[0], answers["a"]) == 0.75
    assert official == pytest.approx(
        {"overall": 87.5, "global": 100, "entity": 50, "attribute": 100, "relation": 0, "other": 100}
    )


@pytest.mark.parametrize("mode", ["official", "fixed"])
def test_a_missing_picture_is_refused(questions: Path, mode: Any) -> None:
    items = read_items(questions, mode)
    with pytest.raises(UserError, match="prompt 'b': expected 4 pictures, found 0"):
        scores(items, {"a": said("yyyy", "yyyy", "yyyy", "yyyy")}, mode)
    with pytest.raises(UserError, match="prompt 'a': expected 4 pictures, found 3"):
        scores(items, {"a": said("yyyy", "yyyy", "yyyy"), "b": said("yy", "yy", "yy", "yy")}, mode)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("item_id,text\na,b\n", "no column proposition_id"),
        (HEADER, "no questions"),
        (HEADER + "a,t,,1,0,,,x - y (z),\n", "row 2: question_natural_language: empty"),
        (HEADER + "a,t,,1,x,,,x - y (z),q\n", "row 2: proposition_id, dependency"),
        (HEADER + "a,t,,1,7,,,x - y (z),q\n", "dependency: 'a': no question 7"),
        (HEADER + "a,t,,1,0,,,x - y (z),q\na,t,,1,0,,,x - y (z),q\n", "row 3: .*two questions 1"),
        (HEADER + ROWS + "a,t,,5,0,,,x - y (z),q\n", "row 8: item_id: the rows of 'a' do not stand together"),
    ],
)
def test_a_damaged_csv_is_refused(questions: Path, text: str, reason: str) -> None:
    questions.write_text(text)
    with pytest.raises(UserError, match=f"dpg_bench.csv: {reason}"):
        read_items(questions, "fixed")


def test_tiles_stand_row_after_row() -> None:
    rng = np.random.default_rng(0)
    four = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(4)]
    grid = grid_of(four)
    assert [np.asarray(tile).tolist() for tile in tiles(grid)] == [np.asarray(one).tolist() for one in four]
    assert grid.getpixel((6, 0)) == four[1].getpixel((0, 0)) and grid.getpixel((0, 6)) == four[2].getpixel(
        (0, 0)
    )
    for size in ((12, 10), (11, 11)):
        with pytest.raises(ValueError, match="expected a square of 2 x 2 pictures"):
            tiles(Image.new("RGB", size))


def test_only_mplugs_official_figures_over_all_prompts_are_official() -> None:
    mplug = {"name": "mplug", "source": dpg_judges.MPLUG}
    assert protocol("official", mplug, 1065, True) == "official"
    assert protocol("official", mplug, 1065, False) == "other questions"
    assert protocol("official", {"name": "mplug", "source": "models/mplug"}, 1065, True) == "judge mplug"
    llava = {"name": "llava", "source": "owner/llava"}
    assert protocol("fixed", llava, 2, False) == "fixed scoring, judge llava, 2 prompts"


class Looker:
    """Says yes where a tile's first pixel is bright; counts its questions."""

    identity = {"name": "looker"}

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        self.asked += questions
        return ["yes" if np.asarray(picture).mean() > 128 else "no"] * len(questions)


def write_grids(folder: Path, brightness: dict[str, Sequence[int]]) -> Path:
    folder.mkdir()
    for name, levels in brightness.items():
        grid_of([Image.new("RGB", (8, 8), (level,) * 3) for level in levels]).save(folder / f"{name}.png")
    return folder


def test_nothing_is_asked_twice(questions: Path, tmp_path: Path) -> None:
    items = read_items(questions, "fixed")
    grids = write_grids(tmp_path / "grids", {"a": (255, 0, 200, 10), "b": (0, 1, 2, 254)})
    judge = Looker()
    ask_waiting(judge, items[:1], grids, tmp_path / "answers")
    assert len(judge.asked) == 16
    ask_waiting(judge, items, grids, tmp_path / "answers")
    assert len(judge.asked) == 16 + 8
    given = read_answers(judge, items, grids, tmp_path / "answers")
    assert [tile[1] for tile in given["a"]] == ["yes", "no", "yes", "no"]
    assert [tile[2] for tile in given["b"]] == ["no", "no", "no", "yes"]
    write_grids(tmp_path / "others", {"a": (1, 0, 200, 10), "b": (0, 1, 2, 254)})
    with pytest.raises(UserError, match="prompt 'a': an answer is missing"):
        read_answers(judge, items, tmp_path / "others", tmp_path / "answers")


def test_the_command_judges_grids_with_mplugs_interface(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """modelscope is stood in for: its answer decides by the picture's brightness, and once is not exactly yes."""

    def pipeline(task: str, model: str, device: str) -> Any:
        assert (task, model) == ("visual-question-answering", dpg_judges.MPLUG)

        def answer(inputs: dict[str, Any]) -> dict[str, str]:
            level = np.asarray(inputs["image"]).mean()
            return {"text": "yes" if level > 200 else "yes it is" if level > 100 else "no"}

        return answer

    for name, content in {
        "modelscope": {},
        "modelscope.pipelines": {"pipeline": pipeline},
        "modelscope.utils": {},
        "modelscope.utils.constant": {
            "Tasks": types.SimpleNamespace(visual_question_answering="visual-question-answering")
        },
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    grids = write_grids(tmp_path / "grids", {"a": (255, 255, 0, 150), "b": (255, 0, 0, 0)})
    options = ["--pictures", str(grids), "--csv", str(questions), "--device", "cpu", "--scoring", "fixed"]
    dpg_bench.main([*options, "--output", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["scores"]["overall"] == pytest.approx(100 * (0.5 + 0.25) / 2)
    assert results["protocol"] == "fixed scoring, 2 prompts" and results["counts"] == {
        "expected": 2,
        "scored": 2,
    }
    (grids / "b.png").unlink()
    with pytest.raises(UserError, match=r"b.png: missing: every prompt must have its pictures"):
        dpg_bench.main([*options, "--output", str(tmp_path / "out")])


def test_a_generators_pictures_are_judged_by_a_chat_model(questions: Path, tmp_path: Path) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    chat = write_chat_model(tiny.write_understanding_shelf(tmp_path / "shelf"), tmp_path / "chat")
    options = [
        "--csv",
        str(questions),
        "--judge",
        str(chat),
        "--device",
        "cpu",
        "--cfg-scale",
        "1",
        "--scoring",
        "fixed",
    ]
    dpg_bench.main([str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--limit", "1", *options])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["partial"] and results["counts"] == {"expected": 1, "scored": 1}
    assert results["protocol"] == "fixed scoring, judge chat, 2 prompts"
    (line,) = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    answers = json.loads(line)["answers"]
    judge = ChatJudge.from_pretrained(str(chat), "cpu")
    with Image.open(tmp_path / "out" / "pictures" / "a.png") as grid:
        assert grid.size == (32, 32)
        third = tiles(grid.convert("RGB"))[2]
    assert judge.answer(third, ["Is the cat red?"]) == [answers[2]["2"]]
    # Pictures that are drawn anew make new grids.
    before = (tmp_path / "out" / "pictures" / "a.png").read_bytes()
    shutil.rmtree(tmp_path / "out" / "pictures" / "drawn")
    again = [str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--limit", "1", "--seed", "7"]
    dpg_bench.main([*again, *options])
    assert (tmp_path / "out" / "pictures" / "a.png").read_bytes() != before


def test_what_is_missing_stands_on_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="missing"):
        dpg_bench.main(["--output", str(tmp_path), "--judge", "nobody/judge"])
    screen = capsys.readouterr().out
    for needed in ("MODEL", "TencentQQGYLab/ELLA", "nobody/judge"):
        assert needed in screen
