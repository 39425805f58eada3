"""Golden layouts of every template, what of them is learned, and what is refused.

Golden texts mark the learned part with ⟦ and ⟧; ids are checked apart, against the pieces between special tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common.errors import UserError
from common.models.encoder_loading import build_encoder
from understanding.conversation import BadSample, Encoded, encode, encode_all, read_conversation
from understanding.processor import build_processor
from understanding.templates import TEMPLATES
from understanding.text_tokenizer import load_text_tokenizer, prepare_text_tokenizer

ROOMY = 10_000
CHAT = (
    " A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
MADE: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama": llama_text_tokenizer,
    "qwen": qwen_text_tokenizer,
}


def ready(family: str, template: str) -> PreTrainedTokenizerFast:
    return prepare_text_tokenizer(MADE[family](), template)


def record(*texts: str, images: Any = None, system: str | None = None) -> dict[str, Any]:
    """Questions and answers in turn."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    if system is not None:
        turns.insert(0, {"from": "system", "value": system})
    return {"id": "x", **({"image": images} if images else {}), "conversations": turns}


ONE = record("What is in this photo?\n<image>", "A photo of two giraffes.", images="a/b.jpg")
MANY = record("<image>\nHow many?", "4", "Is there a dog?", "no", images="a.jpg")
TEXT = record("Is there a dog?", "yes")
SYSTEM = record("How many?", "4", system="Answer with a number.")
SEVERAL = record(
    "First: <image> second: <image>\nHow many?", "4", "And <image>?", "5", images=["a", "b", "c"]
)

GOLDEN = {
    ("llama", "plain", "one"): "<s><image><image>⟦ A photo of two giraffes.\n⟧",
    ("qwen", "plain", "one"): "<image><image>⟦A photo of two giraffes.\n⟧",
    ("llama", "vicuna_v1", "one"): f"<s>{CHAT}USER: <image><image> \nWhat is in this photo? ASSISTANT:"
    "⟦ A photo of two giraffes.</s>⟧",
    ("llama", "vicuna_v1", "many"): f"<s>{CHAT}USER: <image><image> \nHow many? ASSISTANT:⟦ 4</s>⟧"
    "USER: Is there a dog? ASSISTANT:⟦ no</s>⟧",
    ("llama", "vicuna_v1", "text"): f"<s>{CHAT}USER: Is there a dog? ASSISTANT:⟦ yes</s>⟧",
    (
        "llama",
        "vicuna_v1",
        "system",
    ): "<s> Answer with a number. USER: How many? ASSISTANT:⟦ 4</s>⟧",
    ("llama", "vicuna_v1", "several"): f"<s>{CHAT}USER: First: <image><image>  second: <image><image> \n"
    "How many? ASSISTANT:⟦ 4</s>⟧USER: And <image><image> ? ASSISTANT:⟦ 5</s>⟧",
    ("qwen", "qwen", "one"): f"{HELPFUL}<|im_start|>user\n<image><image>\nWhat is in this photo?<|im_end|>\n"
    "<|im_start|>assistant\n⟦A photo of two giraffes.<|im_end|>⟧\n",
    ("qwen", "qwen", "many"): f"{HELPFUL}<|im_start|>user\n<image><image>\nHow many?<|im_end|>\n"
    "<|im_start|>assistant\n⟦4<|im_end|>⟧\n<|im_start|>user\nIs there a dog?<|im_end|>\n"
    "<|im_start|>assistant\n⟦no<|im_end|>⟧\n",
    ("qwen", "qwen", "text"): f"{HELPFUL}<|im_start|>user\nIs there a dog?<|im_end|>\n"
    "<|im_start|>assistant\n⟦yes<|im_end|>⟧\n",
    ("qwen", "qwen", "system"): "<|im_start|>system\nAnswer with a number.<|im_end|>\n"
    "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n⟦4<|im_end|>⟧\n",
    ("qwen", "qwen", "several"): f"{HELPFUL}<|im_start|>user\nFirst: <image><image> second: <image><image>\n"
    "How many?<|im_end|>\n<|im_start|>assistant\n⟦4<|im_end|>⟧\n<|im_start|>user\nAnd <image><image>?<|im_end|>\n"
    "<|im_start|>assistant\n⟦5<|im_end|>⟧\n",
}
RECORDS = {"one": ONE, "many": MANY, "text": TEXT, "system": SYSTEM, "several": SEVERAL}


@pytest.mark.parametrize(("family", "template", "name"), GOLDEN)
def test_layouts(family: str, template: str, name: str) -> None:
    text_tokenizer = ready(family, template)
    encoded = encode(read_conversation(RECORDS[name]), text_tokenizer, image_tokens=2, max_length=ROOMY)
    golden = GOLDEN[family, template, name]
    ids, learned = expected(golden, text_tokenizer)
    assert encoded.ids.tolist() == ids
    assert encoded.learned.tolist() == learned
    assert encoded.ids.dtype == np.int64 and encoded.learned.dtype == bool
    assert not encoded.learned[0]


def expected(golden: str, text_tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[bool]]:
    """Ids and mask of a marked text, with nothing of ours: the text without marks is tokenised, and a token is learned
    if it starts within the marks."""
    inside, spans, text = False, [], ""
    for piece in re.split("([⟦⟧])", golden):
        if piece in "⟦⟧" and piece:
            inside = piece == "⟦"
            continue
        if inside:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    encoding = text_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    learned = [any(start <= place < end for start, end in spans) for place, _ in encoding["offset_mapping"]]
    return encoding["input_ids"], learned


def test_ids_of_llama_are_those_that_can_be_written_down() -> None:
    """The numbers that Llama's own vocabulary begins with: <unk> 0, <s> 1, </s> 2, then the bytes."""
    encoded = encode(
        read_conversation(record("<image>", "é\x07", images="a")), ready("llama", "plain"), 3, ROOMY
    )
    image, start = 449, llama_text_tokenizer().convert_tokens_to_ids("▁")
    assert encoded.ids.tolist() == [1, image, image, image, start, 3 + 0xC3, 3 + 0xA9, 3 + 0x07, 3 + 0x0A]
    assert encoded.learned.tolist() == [False] * 4 + [True] * 5


def test_a_text_begins_as_llama_saw_it() -> None:
    """Behind `<s>`, the first word is the token that it is at the start of any text."""
    text_tokenizer = ready("llama", "vicuna_v1")
    encoded = encode(read_conversation(TEXT), text_tokenizer, 2, ROOMY)
    plain_text = f"{CHAT[1:]}USER: Is there a dog? ASSISTANT: yes</s>"
    assert encoded.ids.tolist() == text_tokenizer(plain_text)["input_ids"]


@pytest.mark.parametrize(("family", "template"), [("llama", "vicuna_v1"), ("qwen", "qwen")])
@pytest.mark.parametrize("name", ["one", "many", "text", "system", "several"])
def test_a_prompt_is_the_beginning_of_what_was_trained(family: str, template: str, name: str) -> None:
    text_tokenizer = ready(family, template)
    conversation = read_conversation(RECORDS[name])
    trained = encode(conversation, text_tokenizer, 1, ROOMY)
    prompt = text_tokenizer.apply_chat_template(
        list(conversation.messages[:-1]), add_generation_prompt=True, return_dict=False
    )
    assert trained.ids[: len(prompt)].tolist() == prompt
    assert trained.learned[len(prompt)]


@pytest.mark.parametrize(
    ("family", "template"), [("llama", "vicuna_v1"), ("qwen", "qwen"), ("llama", "plain")]
)
@pytest.mark.parametrize("order", [("image", "text"), ("text", "image"), ("image_url", "text")])
def test_serving_tools_may_send_parts(family: str, template: str, order: tuple[str, str]) -> None:
    text_tokenizer = ready(family, template)
    conversation = read_conversation(ONE)
    question, answer = "What is in this photo?", "A photo of two giraffes."
    parts = [{"type": kind, **({"text": question} if kind == "text" else {})} for kind in order]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    ids = text_tokenizer.apply_chat_template(messages, return_dict=False)
    assert ids == encode(conversation, text_tokenizer, 1, ROOMY).ids.tolist()


def test_parts_with_several_images_keep_their_order() -> None:
    text_tokenizer = ready("qwen", "qwen")
    image = {"type": "image"}
    content = [image, {"type": "text", "text": "or "}, image, {"type": "text", "text": "?"}]
    text = text_tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    assert "user\n<image>\nor <image>\n?<|im_end|>" in text


@pytest.mark.parametrize(
    ("family", "template"), [("llama", "vicuna_v1"), ("qwen", "qwen"), ("llama", "plain")]
)
def test_expansion_is_that_of_the_processor(family: str, template: str) -> None:
    text_tokenizer = ready(family, template)
    processor = build_processor(build_encoder(tiny.SIGLIP), text_tokenizer)
    several = SEVERAL if template != "plain" else record("<image><image><image>", "4", images=["a", "b", "c"])
    for one, count in ((ONE, 1), (several, 3)):
        conversation = read_conversation(one)
        text = processor.apply_chat_template(list(conversation.messages))
        pictures = [Image.new("RGB", (20, 30))] * count
        inputs = processor(text=text, images=pictures, add_special_tokens=False)
        encoded = encode(conversation, text_tokenizer, 16, ROOMY)
        assert encoded.ids.tolist() == inputs["input_ids"][0]


def runs(encoded: Encoded) -> list[np.ndarray]:
    """The learned ids, answer by answer."""
    changes = np.flatnonzero(np.diff(encoded.learned)) + 1
    return [
        part
        for part, mask in zip(np.split(encoded.ids, changes), np.split(encoded.learned, changes), strict=True)
        if mask[0]
    ]


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
    lambda text: text.strip() == text and text
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6).map(lambda texts: texts[: len(texts) // 2 * 2]))
@pytest.mark.parametrize(("family", "template"), [("llama", "vicuna_v1"), ("qwen", "qwen")])
def test_answers_are_learned_whole_and_nothing_else(family: str, template: str, texts: list[str]) -> None:
    text_tokenizer = CACHED[template]
    encoded = encode(read_conversation(record(*texts)), text_tokenizer, 2, ROOMY)
    end = TEMPLATES[template].end
    found = [text_tokenizer.decode(part) for part in runs(encoded)]
    answers = [unicodedata.normalize("NFC", text) if family == "qwen" else text for text in texts[1::2]]
    assert [text.lstrip(" ") for text in found] == [f"{answer}{end}".lstrip(" ") for answer in answers]


CACHED = {"vicuna_v1": ready("llama", "vicuna_v1"), "qwen": ready("qwen", "qwen")}


@pytest.mark.parametrize("name", ["one", "many", "several"])
@pytest.mark.parametrize("template", ["vicuna_v1", "qwen"])
def test_truncation_cuts_text_and_never_images(template: str, name: str) -> None:
    text_tokenizer = CACHED[template]
    image = text_tokenizer.convert_tokens_to_ids("<image>")
    conversation = read_conversation(RECORDS[name])
    whole = encode(conversation, text_tokenizer, 7, ROOMY)
    images = 7 * len(conversation.images)
    refused = set()
    for max_length in range(1, len(whole.ids) + 3):
        try:
            cut = encode(conversation, text_tokenizer, 7, max_length)
        except BadSample as problem:
            refused.add(problem.reason)
            continue
        assert len(cut.ids) == min(max_length, len(whole.ids))
        assert np.count_nonzero(cut.ids == image) == images
        text, whole_text = cut.ids[cut.ids != image], whole.ids[whole.ids != image]
        assert (text == whole_text[: len(text)]).all()
        kept = cut.learned[cut.ids != image]
        assert (kept == whole.learned[whole.ids != image][: len(text)]).all() and kept.any()
        assert not cut.learned[cut.ids == image].any()
    assert refused == {"the images do not fit", "nothing left to learn"}


def test_many_at_once_are_as_one_by_one() -> None:
    text_tokenizer = ready("llama", "plain")
    conversations = [read_conversation(one) for one in (ONE, MANY, ONE, TEXT, ONE)]
    results = encode_all(conversations, text_tokenizer, 2, ROOMY)
    assert [isinstance(result, Encoded) for result in results] == [True, False, True, False, True]
    alone = encode(conversations[0], text_tokenizer, 2, ROOMY)
    assert all((result.ids == alone.ids).all() for result in results if isinstance(result, Encoded))
    assert encode_all([], text_tokenizer, 2, ROOMY) == []


def test_a_single_image_comes_first() -> None:
    conversation = read_conversation(record("  What is it?\n<image>\n", " A dog. ", images=["a.jpg"]))
    assert [message["content"] for message in conversation.messages] == ["<image>\nWhat is it?", " A dog. "]
    later = read_conversation(record("Hello", "Hi", "Look: <image>", "A dog.", images="a.jpg"))
    assert later.messages[2]["content"] == "<image>\nLook:"


def test_images_that_no_message_mentions_come_first() -> None:
    one = read_conversation(record(" How many?", "4", "And dogs?", "5", images="a.jpg"))
    assert one.messages[0]["content"] == "<image>\nHow many?" and one.images == ("a.jpg",) and one.unmentioned
    two = read_conversation(record("How many?", "4", images=["a", "b"], system="Be brief."))
    assert [turn["content"] for turn in two.messages] == ["Be brief.", "<image>\n<image>\nHow many?", "4"]
    assert not read_conversation(ONE).unmentioned and not read_conversation(TEXT).unmentioned


def test_published_quirks() -> None:
    """Ids as numbers, a first answer that nothing asks for, roles by other names, an image of null."""
    turns = [{"from": "gpt", "value": "Hi."}, *TEXT["conversations"]]
    conversation = read_conversation({"id": 7, "image": None, "conversations": turns, "model": ""})
    assert conversation.id == "7" and conversation.images == () and len(conversation.messages) == 2
    turns = [{"from": "user", "value": "Hi?"}, {"from": "assistant", "value": "Hi."}]
    assert [m["role"] for m in read_conversation({"conversations": turns}).messages] == ["user", "assistant"]


BAD: list[tuple[Any, str]] = [
    (["no", "record"], "not a record: expected a mapping, found list"),
    ({"id": 1}, "empty conversation"),
    ({"id": 1, "conversations": []}, "empty conversation"),
    ({"id": 1, "conversations": "text"}, "empty conversation"),
    ({"id": 1, "conversations": [{"from": "system", "value": "Be brief."}]}, "empty conversation"),
    ({"id": 1, "conversations": [None]}, "not a turn: expected a mapping of from and value, found NoneType"),
    ({"conversations": [{"from": "narrator", "value": "x"}]}, "unknown role: 'narrator'"),
    ({"conversations": [{"value": "x"}]}, "unknown role: None"),
    ({"conversations": [{"from": ["human"], "value": "x"}]}, "unknown role: ['human']"),
    ({"conversations": [{"from": "human", "value": 5}]}, "a message without text: 5"),
    (record("Is there a dog?"), "no answer"),
    (
        {"conversations": [*TEXT["conversations"], *TEXT["conversations"][1:]]},
        "turns do not alternate: turn 3 is assistant's",
    ),
    (record("<image>", "x", "<image>", "y", images="a"), "more image placeholders than images: 2 for 1"),
    (record("<image>", "<image>", images="a"), "more image placeholders than images: 2 for 1"),
    (record("<image><image><image>", "x", images=["a", "b"]), "more image placeholders than images: 3 for 2"),
    (record("<image>", "x", images=["a", "b"]), "fewer image placeholders than images: 1 for 2"),
    (record("x", "x", system="<image>", images="a.jpg"), "an image placeholder in the system's text"),
    (record("<image>", "x", images=[1]), "image is no path: 1"),
    (record("<image>", "x", images={"a": 1}), "image is no path: {'a': 1}"),
]


@pytest.mark.parametrize(("bad", "problem"), BAD)
def test_bad_records(bad: Any, problem: str) -> None:
    with pytest.raises(BadSample) as raised:
        read_conversation(bad)
    assert str(raised.value) == problem


@pytest.mark.parametrize(
    ("template", "bad", "problem"),
    [
        ("plain", MANY, "refused by the template: the plain template takes one picture and one caption, "
         "found several turns"),
        ("plain", TEXT, "refused by the template: the plain template takes one picture and one caption, "
         "found no picture"),
        ("plain", record("<image>", "x"), "refused by the template: the plain template takes one picture and one "
         "caption, found no picture"),
        ("vicuna_v1", record("x", "", "y", ""), "empty answer: there is no other"),
        ("vicuna_v1", record("Strike <s>this</s>", "x"), "a control token in the text: </s>"),
        ("vicuna_v1", record("x", "all</s>"), "a control token in the text: </s>"),
    ],
)  # fmt: skip
def test_bad_for_a_template(template: str, bad: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSample) as raised:
        encode(read_conversation(bad), ready("llama", template), 2, ROOMY)
    assert str(raised.value) == problem


def test_the_text_tokenizer_and_the_template_must_fit() -> None:
    with pytest.raises(UserError, match=r"model.template: qwen needs <\|im_start\|> and <\|im_end\|>"):
        ready("llama", "qwen")
    with pytest.raises(UserError, match=r"model\.template: vicuna_v1 needs </s>"):
        ready("qwen", "vicuna_v1")


def test_a_pad_token_is_needed() -> None:
    text_tokenizer = llama_text_tokenizer()
    text_tokenizer.pad_token = None
    with pytest.raises(UserError, match="pad_token: this text tokenizer names none"):
        prepare_text_tokenizer(text_tokenizer, "vicuna_v1")
    with pytest.raises(UserError, match="pad_token: <pad> is not in the vocabulary"):
        prepare_text_tokenizer(text_tokenizer, "vicuna_v1", "<pad>")
    with pytest.raises(UserError, match="pad_token: </s> ends every answer"):
        prepare_text_tokenizer(text_tokenizer, "vicuna_v1", "</s>")
    prepared = prepare_text_tokenizer(text_tokenizer, "vicuna_v1", "<unk>")
    assert prepared.pad_token_id == 0
    assert len(prepared) == len(text_tokenizer) + 1  # the image token, and nothing to pad with


def test_it_is_saved_with_all_that_it_needs(tmp_path: Path) -> None:
    for family, template in (("llama", "vicuna_v1"), ("qwen", "qwen")):
        text_tokenizer = ready(family, template)
        text_tokenizer.save_pretrained(tmp_path / family)
        loaded = AutoTokenizer.from_pretrained(tmp_path / family)
        encodings = [encode(read_conversation(MANY), one, 3, ROOMY) for one in (text_tokenizer, loaded)]
        assert encodings[0].ids.tolist() == encodings[1].ids.tolist()
        again = load_text_tokenizer(str(tmp_path / family), template)
        assert len(again) == len(text_tokenizer)
        assert again.decode(encodings[0].ids, skip_special_tokens=True).count("<image>") == 0


def test_no_text_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="no text tokenizer can be loaded") as error:
        load_text_tokenizer(str(tmp_path), "qwen")
    assert "\n" not in str(error.value)
