"""A talk over several turns: what was computed is kept, what does not fit is refused or dropped."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_chat import write_chat_model

from common.errors import UserError
from understanding.chat.decoding import Decoding
from understanding.chat.model import ChatModel, load
from understanding.chat.session import ChatSession

BRIEF = Decoding(max_new_tokens=6)
QUESTIONS = ("What color is the large triangle?", "How many bowls are there?", "Is there a red circle?")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def chat(request: pytest.FixtureRequest, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(write_chat_model(shelf, tmp_path_factory.mktemp("session") / "model", request.param))


@pytest.fixture
def computed(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Pictures that went through the tower, and tokens that went through the language model, call by call."""
    counts: dict[str, list[int]] = {"pictures": [], "tokens": []}
    tower, language_model = chat.model.model.vision_tower, chat.model.model.language_model

    def count(name: str, forward: Any, size: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            counts[name].append(size(arguments, named))
            return forward(*arguments, **named)

        return counted

    monkeypatch.setattr(
        tower, "forward", count("pictures", tower.forward, lambda given, named: len(given[0]))
    )
    monkeypatch.setattr(
        language_model,
        "forward",
        count("tokens", language_model.forward, lambda given, named: named["inputs_embeds"].shape[1]),
    )
    return counts


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def uncached(session: ChatSession, images: list[Image.Image]) -> str:
    """The last answer, had nothing been kept."""
    return session.model.answer([(images, session.messages[:-1])], max_new_tokens=6)[0]


def test_a_further_question_costs_its_own_tokens_alone(
    chat: ChatModel, computed: dict[str, list[int]]
) -> None:
    session = ChatSession(chat, [picture(0)], "You are a helpful assistant.")
    costs = []
    for question in QUESTIONS:
        for counts in computed.values():
            counts.clear()
        answer = session.ask(question, decoding=BRIEF)
        costs.append((sum(computed["pictures"]), computed["tokens"][0]))
        assert answer == uncached(session, [picture(0)])
    first, *further = costs
    assert first == (1, len(chat.prompt([picture(0)], session.messages[:2], BRIEF)))
    for place, (pictures, tokens) in enumerate(further, 1):
        whole = len(chat.prompt([picture(0)], session.messages[: 2 * place + 2], BRIEF))
        before = len(chat.prompt([picture(0)], session.messages[: 2 * place], BRIEF))
        # An answer is read once more where it was written with other tokens than it is read with.
        assert pictures == 0 and tokens <= whole - before + 1
    # Anew: the prompt and its picture are the same, up to the first question.
    session.reset()
    computed["pictures"].clear()
    answer = session.ask(QUESTIONS[1], decoding=BRIEF)
    assert not computed["pictures"] and answer == uncached(session, [picture(0)])


def test_pictures_come_at_any_turn_and_are_seen_once(chat: ChatModel, computed: dict[str, list[int]]) -> None:
    session = ChatSession(chat)
    session.ask(QUESTIONS[0], decoding=BRIEF)
    assert not computed["pictures"]
    for number, seed in ((1, 1), (2, 2)):
        computed["pictures"].clear()
        answer = session.ask(QUESTIONS[number], [picture(seed)], BRIEF)
        assert sum(computed["pictures"]) == 1 and answer == uncached(session, [])
    # Another picture under the same words is looked at, and what came behind the former is forgotten.
    same_words = [QUESTIONS[1]]
    for seed in (3, 4):
        session.reset([picture(seed)])
        computed["pictures"].clear()
        answers = [session.ask(text, decoding=BRIEF) for text in same_words]
        assert sum(computed["pictures"]) == 1 and answers[-1] == uncached(session, [picture(seed)])


def test_parts_in_a_talk(chat: ChatModel) -> None:
    session = ChatSession(chat)
    parts = [
        {"type": "text", "text": "See "},
        {"type": "image"},
        {"type": "text", "text": "and "},
        {"type": "image"},
    ]
    answer = session.ask(parts, [picture(0), picture(1)], BRIEF)
    assert answer == chat.answer([([picture(0), picture(1)], [{"role": "user", "content": parts}])], 6)[0]


def test_a_talk_that_outgrows_the_model(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "positions", 300)
    session = ChatSession(chat, [picture(0)])
    with pytest.raises(UserError, match=r"the talk is too long: \d+ tokens, of which 294 fit"):
        for _ in range(20):
            session.ask(QUESTIONS[0], decoding=BRIEF)
    said = session.messages
    with pytest.raises(UserError, match="the talk is too long"):
        session.ask(QUESTIONS[0], decoding=BRIEF)
    assert session.messages == said and session.dropped == 0


def test_the_oldest_turns_are_dropped(
    chat: ChatModel, computed: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the talk is about stays, before the eyes and in the cache; the system message too."""
    monkeypatch.setattr(chat, "positions", 300)
    session = ChatSession(chat, [picture(0)], "You are a helpful assistant.", drop_oldest=True)
    for number in range(12):
        answer = session.ask(QUESTIONS[number % 3], decoding=BRIEF)
        assert answer == uncached(session, [picture(0)])
        assert len(session.messages) == 1 + 2 * (number + 1 - session.dropped)
        assert session.messages[0]["role"] == "system"
    assert session.dropped >= 2
    with pytest.raises(UserError, match=r"^too long: \d{4}"):
        session.ask("x " * 5000, decoding=BRIEF)


def test_a_picture_of_a_dropped_turn_leaves_with_it(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ChatSession(chat, drop_oldest=True)
    session.ask(QUESTIONS[0], [picture(0)], BRIEF)
    room = len(chat.prompt([], session.messages, BRIEF)) + 10
    monkeypatch.setattr(chat, "positions", room + 6)
    session.ask(QUESTIONS[1], [picture(1)], BRIEF)
    assert session.dropped == 1
    ((asked, _),) = [session.messages]
    assert [part["type"] for part in asked["content"]] == ["image", "text"]


def test_what_fails_or_is_not_heard_to_its_end_was_not_asked(
    chat: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ChatSession(chat, [picture(0)])
    session.ask(QUESTIONS[0], decoding=BRIEF)
    said = session.messages
    stream = session.stream(QUESTIONS[1], decoding=Decoding(max_new_tokens=60))
    next(stream)
    stream.close()
    with monkeypatch.context() as patch:
        patch.setattr(
            chat.model, "generate", lambda **_: (_ for _ in ()).throw(RuntimeError("out of memory"))
        )
        with pytest.raises(RuntimeError, match="out of memory"):
            session.ask(QUESTIONS[1], decoding=BRIEF)
    for wrong in ("", "\ud83d", [{"type": "image"}]):
        with pytest.raises(UserError):
            session.ask(wrong, decoding=BRIEF)
    with pytest.raises(UserError, match="gone"):
        session.reset(["gone.png"])
    assert session.messages == said
    assert session.ask(QUESTIONS[1], decoding=BRIEF) == uncached(session, [picture(0)])


def test_talks_of_several_threads_share_a_model(chat: ChatModel) -> None:
    expected = [
        [ChatSession(chat, [picture(seed)]).ask(text, decoding=BRIEF) for text in QUESTIONS]
        for seed in range(4)
    ]
    heard: dict[int, list[str]] = {}

    def talk(seed: int) -> None:
        heard[seed] = [ChatSession(chat, [picture(seed)]).ask(text, decoding=BRIEF) for text in QUESTIONS]

    threads = [Thread(target=talk, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [heard[seed] for seed in range(4)] == expected


def test_draws_of_a_talk_repeat(chat: ChatModel) -> None:
    drawing = Decoding(6, temperature=2.0, seed=1)
    talks = [ChatSession(chat, [picture(0)]) for _ in range(2)]
    one, other = ([talk.ask("What?", decoding=drawing) for _ in range(3)] for talk in talks)
    assert one == other and len(set(one)) > 1
