"""One conversation in every layout in which others publish it; and nothing that a record holds is lost in silence."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from understanding.conversation import BadSample, Conversation, read_conversation
from understanding.layouts import PICTURES, Fields


def encoded(kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.effect_noise((16, 16), 90).convert("RGB").save(out, kind)
    return out.getvalue()


PNG = encoded()
BASE64 = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{BASE64}"
LLAVA = {
    "id": "7",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat color is it?"},
        {"from": "gpt", "value": "red"},
        {"from": "human", "value": "And the other?"},
        {"from": "gpt", "value": "blue"},
    ],
}
TURNS = [
    ("user", "What color is it?"),
    ("assistant", "red"),
    ("user", "And the other?"),
    ("assistant", "blue"),
]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]


def asked(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """OpenAI's messages whose first content is made of parts."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": TURNS[0][1]}]}, *MESSAGES[1:]]


LAYOUTS: dict[str, dict[str, Any]] = {
    "llava": LLAVA,
    "several pictures": {**LLAVA, "image": ["a.png"]},
    "ShareGPT": {
        "id": "7",
        "images": ["a.png"],
        "conversations": [
            {
                "from": {"user": "human", "assistant": "chatgpt"}[role],
                "value": ("<image>" if not n else "") + text,
            }
            for n, (role, text) in enumerate(TURNS)
        ],
    },
    "no placeholder": {"id": "7", "image_path": "a.png", "conversations": MESSAGES},
    "OpenAI": {"id": "7", "images": ["a.png"], "messages": asked({"type": "image"})},
    "OpenAI, a path": {"id": "7", "messages": asked({"type": "image_url", "image_url": {"url": "a.png"}})},
    "Cauldron": {
        "id": "7",
        "images": [{"path": "a.png", "bytes": None}],
        "texts": [
            {"user": TURNS[0][1], "assistant": "red", "source": "x"},
            {"user": TURNS[2][1], "assistant": "blue", "source": "x"},
        ],
    },
    "a table's lists": {
        "id": "7",
        "image": {"bytes": None, "path": "a.png"},
        "conversations": {"role": [role for role, _ in TURNS], "content": [text for _, text in TURNS]},
    },
    "a table's empty fields": {
        "id": "7",
        "image": "a.png",
        "images": [],
        "video": None,
        "conversations": [{"role": None, "content": None, **turn} for turn in LLAVA["conversations"]],
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    found, expected = read_conversation(LAYOUTS[name]), read_conversation(LLAVA)
    assert (found.id, found.images, found.messages) == (expected.id, expected.images, expected.messages)


def test_system_texts_beside_the_turns() -> None:
    beside = read_conversation({**LLAVA, "system": "Be brief."})
    assert beside.messages[0] == {"role": "system", "content": "Be brief."}
    twice = [{"from": "system", "value": "x"}, *LLAVA["conversations"]]
    with pytest.raises(BadSample, match="two system texts"):
        read_conversation({**LLAVA, "system": "Be brief.", "conversations": twice})


@pytest.mark.parametrize(
    "value",
    [URI, BASE64, PNG, {"bytes": PNG, "path": None}, {"url": URI}, URI.replace("base64,", "base64,\n")],
)
def test_pictures_in_the_record(value: Any) -> None:
    assert read_conversation({**LLAVA, "image": value}).images == (PNG,)
    parts = read_conversation({"messages": asked({"type": "image", "image": value})})
    assert parts.images == (PNG,) and parts.messages[0]["content"] == "<image>\nWhat color is it?"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_base64_of_every_kind(kind: str) -> None:
    content = encoded(kind)
    record = {**LLAVA, "image": base64.b64encode(content).decode()}
    assert read_conversation(record).images == (content,)


@pytest.mark.parametrize("name", PICTURES)
def test_every_usual_name_of_a_picture_is_looked_at(name: str) -> None:
    record = {name: "a.png", "conversations": LLAVA["conversations"]}
    assert read_conversation(record).images == ("a.png",)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image_src": "a.JPG"}, "a picture under a name that is not read: image_src"),
    ({"file": ["b.webp"]}, "a picture under a name that is not read: file"),
    ({"pixels": {"bytes": PNG}}, "a picture under a name that is not read: pixels"),
    ({"thumb": URI}, "a picture under a name that is not read: thumb"),
    ({"video": "a.mp4"}, "a video or a sound, which are not read: video"),
    ({"image": "a.png", "audio": {"bytes": b"x"}}, "a video or a sound, which are not read: audio"),
    ({"image": "a.png", "images": ["b.png"]}, "pictures under several names: image, images"),
    ({"image": "a.png", "messages": MESSAGES}, "conversations under several names: conversations, messages"),
    ({"image": "a.png", "conversations": asked({"type": "image", "image": "b.png"})},
     "pictures in the messages and beside them: image"),
    ({"conversations": asked({"type": "video", "video": "a.mp4"})},
     "a part of a message that is neither text nor picture: 'video'"),
    ({"conversations": [{**LLAVA["conversations"][0], "image": "a.png"}, *LLAVA["conversations"][1:]]},
     "a picture under a name that is not read: conversations.image"),
    ({"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "blue \ud83d"}]},
     "text that is none: a message: character 6 is no valid Unicode"),
    ({"conversations": [{"from": "human", "value": "x\0"}, {"from": "gpt", "value": "blue"}]},
     "text that is none: a message: character 2 is a NUL"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "problem"), BAD)
def test_what_is_left_out(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSample) as raised:
        read_conversation({"conversations": LLAVA["conversations"], **fields})
    assert str(raised.value).startswith(problem)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_fields_that_are_not_read_are_told() -> None:
    turns = [{**turn, "weight": 0} for turn in LLAVA["conversations"]]
    record = {
        **LLAVA,
        "model": "x",
        "score": float("nan"),
        "empty": [],
        "url": "http://x/a.png",
        "conversations": turns,
    }
    assert read_conversation(record).unread == ("conversations.weight", "model", "score", "url")
    assert read_conversation(LLAVA).unread == ()


def test_what_the_recipe_names_wins() -> None:
    record = {"photo": "b.png", "chat": LLAVA["conversations"], **LLAVA, "messages": MESSAGES[:2]}
    found = read_conversation(record, Fields("photo", "messages"))
    assert found.images == ("b.png",) and len(found.messages) == 2
    assert set(found.unread) == {"image", "chat", "conversations"}
    with pytest.raises(BadSample, match="empty conversation"):
        read_conversation(LLAVA, Fields(turns="talk"))


def values() -> st.SearchStrategy[Any]:
    """Anything that JSON and tables can hold, mostly under the names that are read."""
    names = st.sampled_from(
        ["from", "value", "role", "content", "type", "text", "user", "assistant", "image", "images", "bytes", "path",
         "conversations", "messages", "texts", "system", "id", "url", "image_url", "x"]
    )  # fmt: skip
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=9),
        st.sampled_from(["human", "gpt", "user", "assistant", "system", "<image>", "a.png", URI, "text", "image"]),
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
        max_leaves=12,
    )


def records() -> Iterator[st.SearchStrategy[Any]]:
    yield values()
    turn = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", 3]), "value": values()})
    yield st.fixed_dictionaries({"conversations": st.lists(turn, max_size=4), "image": values()})


@settings(max_examples=100, deadline=None, derandomize=True)
@given(record=st.one_of(*records()))
@example(record={"conversations": {"from": []}})  # a table's struct of lists, of no turn
def test_whatever_a_record_holds(record: Any) -> None:
    """A conversation whose placeholders are as many as its pictures, or one kind of error."""
    try:
        found = read_conversation(record)
    except BadSample as problem:
        assert str(problem)
        return
    assert isinstance(found, Conversation)
    mentioned = sum(message["content"].count("<image>") for message in found.messages)
    assert mentioned == len(found.images) or not found.images
    json.dumps(found.messages, ensure_ascii=False).encode()
