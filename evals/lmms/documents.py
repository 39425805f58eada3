"""Twenty made-up documents for each of the paper's tasks, in the schema of its data set on the hub.

They stand in for data that a machine may not have, so that a task's prompts can be rendered, and compared, anywhere.
Their texts have what makes prompts differ: spaces at the ends, line breaks, hints, letters beyond ASCII, and for MMMU
pictures that are named late, twice, out of order or in an option. Change one, and every fingerprint that
`targets.yaml` has of lmms-eval must be found anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

COUNT = 20
_TEXTS = (
    "Is there a red cup on the table?",
    "what does the sign say?",
    " How many birds are there?  ",
    "Where is it?\nLook at the left side.",
    "Ist das ein Fuß - oder zwei?",
    "图中有几只猫?",
)
_ENDS = ("Yes.", "two", "A, B", "on the left", "Grün", "7")


def documents(task: str) -> list[dict[str, Any]]:
    """The documents of a task of `PAPER_TASKS`, the same at each call; SEED-Bench has four videos behind them."""
    return [_SCHEMAS[task](number) for number in range(COUNT + 4 * (task == "seedbench"))]


def picture(number: int) -> Image.Image:
    """One colour all over; its size and its colour tell its number."""
    return Image.new("RGB", (8 + number, 6), (number * 11 % 256, number * 7 % 256, number))


def question_text(number: int) -> str:
    return f"{_TEXTS[number % len(_TEXTS)]}{number if number % 4 == 3 else ''}"


def choices(number: int, count: int) -> list[str]:
    return [f"{_ENDS[(number + place) % len(_ENDS)]}{' ' * (place == 2)}" for place in range(count)]


def _mme(number: int) -> dict[str, Any]:
    kind = "existence" if number % 2 else "code_reasoning"
    question = f"{question_text(number)} Please answer yes or no."
    about = {"question_id": f"{kind}/{number}.png", "category": kind}
    return {**about, "image": picture(number), "question": question, "answer": ("No", "Yes")[number % 2]}


def _mmbench(number: int) -> dict[str, Any]:
    given = dict(zip("ABCD", [*choices(number, 2 + number % 3), "nan", "nan"], strict=False))
    hint = ("nan", "The cup is\nnew.", "Das Maß ist voll.")[number % 3]
    where = {"source": "made", "split": "dev", "category": "ocr", "L2-category": "perception"}
    about = {
        "index": number,
        "image": picture(number),
        "question": question_text(number),
        "hint": hint,
        **where,
    }
    return {
        **about,
        **{letter: given.get(letter, "nan") for letter in "ABCD"},
        "answer": "A",
        "comment": "nan",
    }


def _seedbench(number: int) -> dict[str, Any]:
    video = number >= COUNT
    given = {f"choice_{letter}": text for letter, text in zip("abcd", choices(number, 4), strict=True)}
    pictures = [picture(8 * number + frame) for frame in range(8 if video else 1)]
    about = {"question_id": str(number), "question_type_id": 1, "segment": [0, 1] if video else None}
    asked = {"question": question_text(number), "image": pictures, "data_type": "video" if video else "image"}
    return {**about, **asked, **given, "answer": "ABCD"[number % 4]}


def _textvqa(number: int) -> dict[str, Any]:
    about = {"image_id": str(number), "question_id": number, "image": picture(number)}
    return {
        **about,
        "question": question_text(number),
        "ocr_tokens": ["STOP"],
        "answers": choices(number, 3) * 3,
    }


def _gqa(number: int) -> dict[str, Any]:
    about = {"id": str(number), "imageId": f"n{number}", "image": picture(number)}
    return {**about, "question": question_text(number), "answer": "yes", "fullAnswer": "Yes, it is."}


def _pope(number: int) -> dict[str, Any]:
    about = {
        "id": str(number),
        "question_id": str(number),
        "image_source": "COCO_0",
        "image": picture(number),
    }
    return {
        **about,
        "question": question_text(number),
        "answer": ("no", "yes")[number % 2],
        "category": "random",
    }


def _ai2d(number: int) -> dict[str, Any]:
    options = choices(number, 2 + number % 3)
    return {"question": question_text(number), "options": options, "answer": "0", "image": picture(number)}


_MMMU = (
    "<image 1> {}",
    "{} Compare <image 2> with <image 1>.",
    "{}\n<image 1>\nIn <image 1>, what is new?",
    "Which of these?\n{}",  # pictures in the options alone
    "{} <image 1><image 2> and, once more, <image 2>, <image 3>",
)


def _mmmu(number: int) -> dict[str, Any]:
    question = _MMMU[number % len(_MMMU)].format(question_text(number))
    options = choices(number, 4)
    if number % len(_MMMU) == 3:
        options = ["<image 3>", "<image 1>", "$x < 2$", "<image 2>"]
    pictures = {
        f"image_{place}": picture(10 * place + number) if place < 4 else None for place in range(1, 8)
    }
    kind = {"question_type": "open", "options": "[]"} if number % 6 == 5 else {"options": str(options)}
    about = {"id": f"validation_Art_{number}", "question_type": "multiple-choice", "subfield": "Art", **kind}
    return {**about, "question": question, **pictures, "answer": "A", "explanation": ""}


_SCHEMAS: dict[str, Callable[[int], dict[str, Any]]] = {
    "pope": _pope,
    "gqa": _gqa,
    "textvqa_val": _textvqa,
    "mmbench_en_dev_static": _mmbench,
    "mme": _mme,
    "seedbench": _seedbench,
    "mmmu_val": _mmmu,
    "ai2d": _ai2d,
}
