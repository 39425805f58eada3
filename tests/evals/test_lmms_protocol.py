"""What reaches the model in the paper's eight tasks, against lmms-eval's own `llava` with a model that only listens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from tiny_chat import write_chat_model

pytest.importorskip("lmms_eval", reason="the extra `evals` is not installed")

from lmms_eval.api.model import CacheHook
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.models.simple import llava

from common.errors import UserError
from evals import targets
from evals.answers import Answers, picture_digest
from evals.fingerprint import fingerprint
from evals.lmms import protocol
from evals.lmms import requests as lmms_requests
from evals.lmms.documents import documents
from evals.lmms.model import Told, VqraeChat
from evals.lmms.tasks import PAPER_TASKS

pytestmark = pytest.mark.slow


class Conversation:
    """LLaVA's `vicuna_v1`, as far as one question goes."""

    roles = ("USER", "ASSISTANT")
    start = "A chat between a curious user and an artificial intelligence assistant. "
    system = f"{start}The assistant gives helpful, detailed, and polite answers to the user's questions."

    def copy(self) -> Conversation:
        return Conversation()

    def append_message(self, role: str, text: str | None) -> None:
        self.question = text or self.question

    def get_prompt(self) -> str:
        return f"{self.system} USER: {self.question} ASSISTANT:"


class Listening:
    """Stands where LLaVA's model, tokenizer and picture processing do, and keeps what comes."""

    pad_token_id, eos_token_id, padding_side = 0, 2, "right"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return "</s>"

    def batch_decode(self, ids: Any, skip_special_tokens: bool) -> list[str]:
        return [str(len(self.asked) - 1)]

    def pictures(self, pictures: list[Image.Image], *_: Any) -> torch.Tensor:
        self.seen = [picture_digest(picture) for picture in pictures]
        return torch.zeros(len(pictures), 3, 2, 2)

    def text(self, prompt: str, *_: Any, **__: Any) -> torch.Tensor:
        self.prompt = prompt
        return torch.ones(4, dtype=torch.long)

    def generate(self, ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        assert not settings["do_sample"] and settings["num_beams"] == 1
        length = {"max_new_tokens": settings["max_new_tokens"], "temperature": float(settings["temperature"])}
        self.asked.append([self.prompt, self.seen, length])
        return ids


def asked_by_llava(task: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the framework's own class sends, in the order of the requests."""
    ears = Listening()
    monkeypatch.setattr(llava, "DEFAULT_IMAGE_TOKEN", "<image>", raising=False)
    monkeypatch.setattr(llava, "IMAGE_TOKEN_INDEX", -200, raising=False)
    monkeypatch.setattr(llava, "conv_templates", {"vicuna_v1": Conversation()}, raising=False)
    monkeypatch.setattr(llava, "process_images", ears.pictures, raising=False)
    monkeypatch.setattr(llava, "tokenizer_image_token", ears.text, raising=False)
    model = object.__new__(llava.Llava)
    requests, model.task_dict = protocol.made_up_requests(task, ConfigurableTask, "llava")
    model.batch_size_per_gpu, model.conv_template, model.use_cache = 1, "vicuna_v1", True
    model._model = model._tokenizer = ears
    model._image_processor, model._config = None, SimpleNamespace(image_aspect_ratio="pad")
    model._rank, model._device, model.cache_hook = 0, torch.device("cpu"), CacheHook(None)
    return [ears.asked[int(number)] for number in model.generate_until(requests)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_understanding_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def model(shelf: Path) -> VqraeChat:
    return VqraeChat(str(write_chat_model(shelf, shelf / "model")), device="cpu")


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_a_task_is_asked_as_llava_asks_it(
    task: str, model: VqraeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = asked_by_llava(task, monkeypatch)
    requests, found = protocol.made_up_requests(task)
    ours = [model.rendered(request, found) for request in requests]
    assert len(ours) == 20 and ours == theirs
    row = targets.load()["understanding"]["Vicuna-7B 256 px"]
    assert fingerprint(ours) == row.fingerprint_of(PAPER_TASKS[task].score)
    assert protocol.task_fingerprint(task, model) == fingerprint(ours)


def test_another_template_is_another_protocol(shelf: Path) -> None:
    other = VqraeChat(str(write_chat_model(shelf, shelf / "qwen", kind="qwen2")), device="cpu")
    row = targets.load()["understanding"]["Vicuna-7B 256 px"]
    assert protocol.task_fingerprint("pope", other) != row.fingerprint_of("pope")


def test_the_pictures_of_mmmu_stand_in_front_in_the_order_of_their_numbers(model: VqraeChat) -> None:
    requests, found = protocol.made_up_requests("mmmu_val")
    rows = documents("mmmu_val")
    several = next(n for n, row in enumerate(rows) if row["question"].count("<image 2>") == 2)
    text, pictures, _ = model.rendered(requests[several], found)
    assert "USER: <image> <image> <image>\n" in text and rows[several]["question"] in text
    assert pictures == [picture_digest(rows[several][f"image_{number}"]) for number in (1, 2, 3)]


def test_seedbench_leaves_videos_out_unless_asked_for() -> None:
    kept = protocol.task_config("seedbench")["process_docs"]
    rows = protocol.Dataset.from_list([{"data_type": kind} for kind in ("image", "video", "image")])
    assert kept(rows)["data_type"] == ["image", "image"]
    assert "process_docs" not in protocol.task_config("seedbench", videos=True)


def as_task(text: str, visuals: list[Any]) -> tuple[Any, dict[str, Any]]:
    """A request of a task that has pictures and a text."""
    task = object.__new__(protocol.ConfigurableMessagesTask)
    task._config = SimpleNamespace(doc_to_visual=lambda row: visuals, doc_to_messages=None)
    task.lmms_eval_specific_kwargs = None
    request = SimpleNamespace(args=(text, task.doc_to_messages, {"max_new_tokens": 4}, 0, "mine", "test"))
    return request, {"mine": {"test": [{}]}}


@pytest.mark.parametrize(
    ("text", "pictures", "content"),
    [
        ("What?", 0, "What?"),
        (" What? ", 1, "<image>\n What? "),
        ("Is <image> like <image>?", 2, "Is <image> like <image>?"),
        ("What does <image> mean?", 0, "What does  mean?"),
        ("What does <image> mean?", 2, "<image> <image>\nWhat does  mean?"),
    ],
)
def test_placeholders_are_as_many_as_pictures(text: str, pictures: int, content: str) -> None:
    request, found = as_task(text, [Image.new("L", (4, 4))] * pictures)
    question = lmms_requests.read_request(request, found)
    assert question.turns == [{"role": "user", "content": content}]
    assert [picture.mode for picture in question.pictures] == ["RGB"] * pictures


def test_what_is_neither_picture_nor_text_is_named() -> None:
    request, found = as_task("What?", ["film.mp4"])
    with pytest.raises(UserError, match="mine: question 0: video is not supported"):
        lmms_requests.read_request(request, found)


class Small(VqraeChat):
    """A device with room for some pictures, and a model that says the last letter of the question."""

    def __init__(self, batch_size: int, room: int = 10**9) -> None:
        self.batch_size, self.room, self._rank = batch_size, room, 0
        self.answers, self.identity, self.told = Answers(None), "", Told()
        self.tried: list[tuple[int, int]] = []

    def generate(self, questions: Any) -> list[str]:
        widest = max(1, *(len(one.pictures) for one in questions))
        self.tried.append((len(questions), widest))
        if len(questions) * widest > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [one.turns[-1]["content"][-1] for one in questions]

    def rendered(self, request: Any, documents: Any) -> list[Any]:
        return []


def ask(model: Small, pictures: list[int]) -> list[str]:
    """One question for each number of pictures."""
    requests, model.task_dict = [], {"mine": {"test": [{}] * len(pictures)}}
    for place, count in enumerate(pictures):
        request, _ = as_task(
            f"{'x' * place}{chr(97 + place)}", [Image.new("RGB", (4, 4), (place, 0, 0))] * count
        )
        request.args = (*request.args[:3], place, *request.args[4:])
        requests.append(request)
    return model.generate_until(requests)


PICTURES = [1, 8, 1, 1, 2, 0, 1, 1, 8, 1]


def test_a_batch_minds_its_pictures() -> None:
    model = Small(batch_size=8)
    assert ask(model, PICTURES) == list("abcdefghij")
    assert max(count * widest for count, widest in model.tried) == 8
    assert sum(count for count, _ in model.tried) == len(PICTURES)
    alone = Small(batch_size=1)
    assert ask(alone, PICTURES) == list("abcdefghij") and {count for count, _ in alone.tried} == {1}


def test_too_little_memory_halves_the_batch_and_changes_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    model = Small(batch_size=8, room=3)
    assert ask(model, [1] * 10) == list("abcdefghij")
    assert [count for count, _ in model.tried if count > 3] == [8, 4]  # and never again
    assert "out of memory with 8 questions at once: 4 from here on" in capsys.readouterr().out
    with pytest.raises(torch.OutOfMemoryError):
        ask(Small(batch_size=8, room=3), [4])


def test_other_failures_are_not_tried_again() -> None:
    model = Small(batch_size=4)
    model.generate = lambda questions: [][1]  # type: ignore[method-assign]
    with pytest.raises(IndexError):
        ask(model, [1, 1])
