"""DPG-Bench's rules on a CSV written by hand; grids, answers and the whole command on tiny models."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_generator
from PIL import Image
from tiny_chat import write_chat_model
from tiny_mplug import write_mplug

from common.errors import UserError
from evals.dpg import judges as dpg_judges
from evals.dpg import run as dpg_bench
from evals.dpg.answers import ask_waiting, read_answers
from evals.dpg.judges import ChatJudge, grid_of, tiles
from evals.dpg.mplug import released
from evals.dpg.mplug.judge import MplugJudge
from evals.dpg.report import check_judge, protocol
from evals.dpg.rules import cascade, item_score, read_items, scores
from evals.result_table import compare
from evals.results import Results
from evals.targets import find

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


def test_the_order_of_the_rows_changes_nothing(questions: Path) -> None:
    answers = {"a": said("yyyy", "nyyy", "ynyy", "yyny"), "b": said("yy", "yn", "nn", "ny")}
    expected, _ = scores(read_items(questions, "fixed"), answers, "fixed")
    rows = ROWS.splitlines(keepends=True)
    for seed in range(12):
        np.random.default_rng(seed).shuffle(rows)  # rows of the two prompts mixed too
        questions.write_text(HEADER + "".join(rows))
        assert scores(read_items(questions, "fixed"), answers, "fixed")[0] == pytest.approx(expected)


def test_the_original_lets_a_child_before_its_parent_see_the_parents_answer_alone(questions: Path) -> None:
    dropped, shuffled = "0,,,1,0,,,x - y (z),dropped\n", ("3,2", "2,1", "1,0")
    questions.write_text(
        HEADER + dropped + "".join(f"a,t,,{numbers},,,x - y (z),q\n" for numbers in shuffled)
    )
    for mode, last in (("official", True), ("fixed", False)):
        item = read_items(questions, mode)[-1]
        assert cascade(item, {1: False, 2: True, 3: True}) == {1: False, 2: False, 3: last}


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
        (HEADER + "a,t,,1,0,,,x - y (z),q\na,u,,2,0,,,x - y (z),q\n", "row 3: text: 'a' has another one"),
        (HEADER + "a,t,,2,2,,,x - y (z),q\n", "dependency: 'a': questions hang on one another: 2, 2"),
        (
            HEADER + "b,t,,1,3,,,x - y (z),q\nb,t,,2,1,,,x - y (z),q\nb,t,,3,2,,,x - y (z),q\n",
            "dependency: 'b': questions hang on one another: [123], [123], [123], [123]$",
        ),
    ],
)
def test_a_damaged_csv_is_refused(questions: Path, text: str, reason: str) -> None:
    questions.write_text(text)
    with pytest.raises(UserError, match=f"dpg_bench.csv: {reason}"):
        read_items(questions, "fixed")


def test_the_original_cannot_read_rows_of_a_prompt_that_stand_apart(questions: Path) -> None:
    questions.write_text(HEADER + ROWS + "a,t,,5,0,,,x - y (z),q\n")
    with pytest.raises(UserError, match="row 8: item_id: the rows of 'a' do not stand together"):
        read_items(questions, "official")


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
    mplug = {"name": "mplug", "source": released.NAME}
    assert protocol("official", mplug, 1065, True) == "official"
    assert protocol("official", mplug, 1065, False) == "other questions"
    assert protocol("official", {"name": "mplug", "source": "models/mplug"}, 1065, True) == "judge mplug"
    llava = {"name": "llava", "source": "owner/llava"}
    assert protocol("fixed", llava, 2, False) == "fixed scoring, judge llava, 2 prompts"


class Looker:
    """Says yes where a tile's first pixel is bright; counts its questions."""

    identity = {"name": "looker"}
    key = "looker"

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


def run(*words: object) -> dict[str, Any]:
    """results.json of a run on the CPU; the last word is its folder."""
    dpg_bench.main([*map(str, words[:-1]), "--device", "cpu", "--output", str(words[-1])])
    return dict(json.loads((Path(str(words[-1])) / "results.json").read_text()))


def test_the_command_judges_grids_with_mplug(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that says yes to dark pictures and no to bright ones, by its random weights."""
    grids = write_grids(tmp_path / "grids", {"a": (0, 0, 255, 255), "b": (0, 255, 255, 255)})
    mplug = write_mplug(tmp_path / "mplug", opinionated=True)
    options = ["--pictures", grids, "--csv", questions, "--judge", mplug, "--scoring", "fixed"]
    results = run(*options, tmp_path / "out")
    assert results["scores"]["overall"] == pytest.approx(100 * (0.5 + 0.25) / 2)
    assert results["protocol"] == "fixed scoring, judge mplug, 2 prompts"
    assert results["counts"] == {"expected": 2, "scored": 2}
    assert results["details"]["neither_yes_nor_no"] == {"answers": 4 * (4 + 2), "neither": 0}
    assert "0 of 24 answers are neither yes nor no" in capsys.readouterr().out
    # Answers are kept by what the judge is, not by where its files are.
    kept = {path: path.read_text() for path in (tmp_path / "out" / "answers").iterdir()}
    moved = mplug.rename(tmp_path / "moved")
    run(*options[:-3], moved, "--scoring", "official", tmp_path / "out")
    assert {path: path.read_text() for path in (tmp_path / "out" / "answers").iterdir()} == kept
    (grids / "b.png").unlink()
    with pytest.raises(UserError, match=r"b.png: missing: every prompt must have its pictures"):
        run(*options[:-3], moved, tmp_path / "out")


def test_a_generators_pictures_are_judged(questions: Path, tmp_path: Path) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    mplug = write_mplug(tmp_path / "mplug", opinionated=True)
    options = ["--csv", questions, "--judge", mplug, "--cfg-scale", "1", "--scoring", "fixed"]
    results = run(tmp_path / "model", "--limit", "1", *options, tmp_path / "out")
    assert results["partial"] and results["counts"] == {"expected": 1, "scored": 1}
    (line,) = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    answers = json.loads(line)["answers"]
    with Image.open(tmp_path / "out" / "pictures" / "a.png") as grid:
        assert grid.size == (32, 32)
        third = tiles(grid.convert("RGB"))[2]
    judge = dpg_judges.open_judge(str(mplug), "cpu")
    assert judge.answer(third, ["Is the cat red?"]) == [answers[2]["2"]]
    # Pictures that are drawn anew make new grids.
    before = (tmp_path / "out" / "pictures" / "a.png").read_bytes()
    shutil.rmtree(tmp_path / "out" / "pictures" / "drawn")
    run(tmp_path / "model", "--limit", "1", "--seed", "7", *options, tmp_path / "out")
    assert (tmp_path / "out" / "pictures" / "a.png").read_bytes() != before


def test_another_limit_and_another_judge_ask_and_draw_only_what_is_new(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    asked: list[int] = []
    answer = MplugJudge.answer
    monkeypatch.setattr(
        MplugJudge,
        "answer",
        lambda self, picture, texts: asked.append(len(texts)) or answer(self, picture, texts),
    )
    mplug = write_mplug(tmp_path / "mplug", opinionated=True)
    options = [
        "--csv",
        questions,
        "--judge",
        mplug,
        "--cfg-scale",
        "1",
        "--scoring",
        "fixed",
        tmp_path / "out",
    ]
    run(tmp_path / "model", "--limit", "1", *options)
    assert asked == [1, 4, 4, 4, 4]  # the blank picture, and four of prompt a
    first = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "pictures" / "drawn").glob("*_*.png")
    }
    run(tmp_path / "model", "--batch-size", "3", *options)
    assert asked[5:] == [1, 2, 2, 2, 2]
    assert len(first) == 4 and all(path.stat().st_mtime_ns == time for path, time in first.items())
    (mplug / "tokenizer_config.json").write_text('{"do_lower_case": true}')  # another judge
    run(tmp_path / "model", *options)
    assert asked[10:] == [1, 4, 4, 4, 4, 2, 2, 2, 2]


def test_a_judge_of_other_words_is_refused_and_its_words_are_kept(questions: Path, tmp_path: Path) -> None:
    chat = write_chat_model(tiny.write_understanding_shelf(tmp_path / "shelf"), tmp_path / "chat")
    grids = write_grids(tmp_path / "grids", {"a": (0, 0, 255, 255), "b": (0, 255, 255, 255)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(
        '{"benchmark": "dpg_bench", "protocol": "of another judge", "scores": {}}'
    )
    with pytest.raises(
        UserError,
        match=r"verdicts.jsonl: judge chat: \d+ of 24 answers are neither yes nor no, such as .*over 5%",
    ):
        run("--pictures", grids, "--csv", questions, "--judge", chat, "--scoring", "fixed", tmp_path / "out")
    lines = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()
    with Image.open(grids / "b.png") as grid:
        second = tiles(grid)[1]
    said = ChatJudge.from_pretrained(str(chat), "cpu").answer(second, ["Is there a painting?"])
    assert said == [json.loads(lines[1])["answers"][1]["2"]] and said[0] not in ("yes", "no")
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(("count", "refused"), [(0, False), (5, False), (6, True), (100, True)])
def test_one_answer_in_twenty_may_be_neither(count: int, refused: bool) -> None:
    answers = ["perhaps"] * count + ["yes", "no"] * 50
    given = {"a": [dict(enumerate(answers[:25])), dict(enumerate(answers[25:100]))]}
    if refused:
        with pytest.raises(
            UserError, match=f"judge x: {count} of 100 answers are neither yes nor no, such as 'perhaps'"
        ):
            check_judge(given, "judge x")
    else:
        counts, note = check_judge(given, "judge x")
        assert counts == {"answers": 100, "neither": count} and note.startswith(
            f"{count} of 100 answers are neither"
        )


@pytest.mark.parametrize("judge", ["mplug", "chat"])
def test_a_judge_that_cannot_be_opened_is_refused_before_anything_is_drawn(
    questions: Path, tmp_path: Path, judge: str
) -> None:
    tiny_generator.write_generator(tmp_path / "model")
    if judge == "mplug":
        (write_mplug(tmp_path / "judge") / "pytorch_model.bin").write_bytes(b"PK cut off")
    else:
        shutil.copytree(tmp_path / "model", tmp_path / "judge")  # a model, but of another kind
    with pytest.raises(UserError, match="judge"):
        run(tmp_path / "model", "--csv", questions, "--judge", tmp_path / "judge", tmp_path / "out")
    assert not (tmp_path / "out" / "pictures").exists()


def test_a_judge_is_asked_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(MplugJudge, "answer", broken)
    with pytest.raises(UserError, match="cannot answer a question about a blank picture: out of memory"):
        dpg_judges.open_judge(str(write_mplug(tmp_path / "mplug")), "cpu")


def test_category_scores_of_the_original_are_never_compared(tmp_path: Path) -> None:
    whole = Results(
        benchmark="dpg_bench",
        protocol="official",
        scores={"overall": 80.0, "global": 80.0, "relation": 80.0},
        expected=1065,
        scored=1065,
        partial=False,
        settings={},
        model={},
        seconds=1,
        processes=1,
    )
    target = find("dpg_bench", None)
    if target is not None and (prints := getattr(target, "fingerprints", None)) is not None:
        whole = dataclasses.replace(whole, fingerprints=prints)
    compared = {row.score: row for row in compare(whole)}
    assert compared["overall"].comparable and compared["overall"].paper == 86.67
    for score in ("global", "relation"):
        assert not compared[score].comparable and "ELLA issue 56" in str(compared[score].why_not)


def test_what_is_missing_stands_on_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="missing"):
        dpg_bench.main(["--output", str(tmp_path), "--judge", "nobody/judge"])
    screen = capsys.readouterr().out
    for needed in ("MODEL", "TencentQQGYLab/ELLA", "nobody/judge"):
        assert needed in screen
    with pytest.raises(UserError, match="missing"):
        dpg_bench.main(["--output", str(tmp_path)])
    assert f"modelscope download --model {released.NAME}" in capsys.readouterr().out
    (write_mplug(tmp_path / "mplug") / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt in"):
        dpg_bench.main(["--output", str(tmp_path), "--judge", str(tmp_path / "mplug")])
