"""What a user says to a model, and hears from it: all at once, piece by piece, and on the command line."""

from __future__ import annotations

import base64
import builtins
import copy
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from text_tokenizers import llama_text_tokenizer
from tiny_chat import write_chat_model
from transformers import (
    AddedToken,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from common.errors import UserError
from understanding.chat.decoding import Decoding
from understanding.chat.model import ChatModel, load
from understanding.chat.prompt import PromptWriter, batch
from understanding.chat.turns import Request, placed
from vqrae.cli import dispatch


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model_folder(
    request: pytest.FixtureRequest, shelf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_chat_model(shelf, tmp_path_factory.mktemp("chat") / "model", request.param)


@pytest.fixture(scope="module")
def chat(model_folder: Path) -> ChatModel:
    return load(model_folder)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def ask(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


REQUESTS: list[Request] = [
    ([picture(0)], [ask("What color is the large triangle?")]),
    (
        [picture(1)],
        [ask("Describe it."), {"role": "assistant", "content": "A photo."}, ask("How many bowls are there?")],
    ),
    (
        [],
        [
            {"role": "system", "content": "You are a helpful assistant."},
            ask("Is there a red circle? Answer yes or no."),
        ],
    ),
    ([picture(2), picture(3)], placed([ask("<image>\nand <image>\n: which is red?")])),
]


def test_answers_do_not_depend_on_who_else_is_asked(chat: ChatModel) -> None:
    together = chat.answer(REQUESTS, max_new_tokens=8)
    alone = [chat.answer([request], max_new_tokens=8)[0] for request in REQUESTS]
    assert together == alone and len(set(together)) > 1
    assert not any("<image>" in answer for answer in together)
    assert chat.answer([]) == []


def test_a_stream_gives_the_same_text_in_pieces(chat: ChatModel) -> None:
    for images, messages in REQUESTS:
        pieces = list(chat.stream(images, messages, max_new_tokens=8))
        assert "".join(pieces).strip() == chat.answer([(images, messages)], max_new_tokens=8)[0]


def test_a_picture_is_seen(chat: ChatModel) -> None:
    one, other = (
        batch([chat.prompt([picture(seed)], [ask("What is it?")], Decoding())], 0) for seed in (0, 1)
    )
    assert torch.equal(one["input_ids"], other["input_ids"])
    with torch.inference_mode():
        assert not torch.allclose(chat.model(**one).logits[:, -1], chat.model(**other).logits[:, -1])


def test_the_prompt_is_the_one_of_training(chat: ChatModel) -> None:
    """Up to where the answer begins, token for token."""
    from understanding.conversation import encode, read_conversation

    text = "What color is the large triangle?"
    turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "green"}]
    record = {"id": 1, "image": "a.png", "conversations": turns}
    encoded = encode(read_conversation(record), chat.processor.tokenizer, 16, 200)
    asked = chat.prompt([picture(0)], [ask(text)], Decoding())
    start = int(encoded.learned.argmax())
    assert list(asked.ids) == encoded.ids[:start].tolist()
    assert [asked.ids[slice(*span)] for span in asked.spans or ()] == [
        (chat.model.config.image_token_id,) * 16
    ]


def test_a_failure_while_streaming_is_not_lost(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.stream([], [ask("Who?")]))


def test_what_cannot_be_asked(chat: ChatModel) -> None:
    with pytest.raises(UserError, match="2 places for 1 pictures"):
        chat.answer([([picture(0)], placed([ask("<image> and <image>")]))])
    with pytest.raises(UserError, match="does not fit the model's template"):
        chat.answer([([], [{"role": "nobody", "content": "?"}])])
    with pytest.raises(UserError, match="max_new_tokens: expected 1 or more"):
        chat.answer(REQUESTS, max_new_tokens=0)
    with pytest.raises(UserError, match="temperature: expected 0 or more"):
        chat.answer(REQUESTS, temperature=-1.0)
    for settings in ({"top_p": 0.0}, {"top_p": 1.5}, {"temperature": float("nan")}, {"seed": -1}):
        with pytest.raises(UserError, match=f"{next(iter(settings))}: expected"):
            chat.answer(REQUESTS, **settings)


def test_what_is_drawn_follows_from_its_seed(chat: ChatModel) -> None:
    torch.manual_seed(0)
    assert len({chat.answer(REQUESTS[:1], 8, temperature=2.0)[0] for _ in range(4)}) > 1
    together = chat.answer(REQUESTS, 8, temperature=2.0, top_p=0.9, seed=3)
    torch.manual_seed(1)
    assert together == [chat.answer([request], 8, 2.0, 0.9, seed=3)[0] for request in REQUESTS]
    assert together != chat.answer(REQUESTS, 8, temperature=2.0, top_p=0.9, seed=4)
    assert together == ["".join(chat.stream(*request, 8, 2.0, 0.9, 3)).strip() for request in REQUESTS]
    assert chat.answer(REQUESTS, 8, temperature=2.0, top_p=1e-6, seed=3) == chat.answer(REQUESTS, 8)


def test_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -float("inf")]])
    noise = Decoding(temperature=2.0).draws(range(4000), 4000)[0]
    drawn = noise(torch.zeros(4000, 0), logits.expand(4000, 4)).argmax(1).bincount(minlength=4) / 4000
    assert torch.allclose(drawn, (logits[0] / 2).softmax(0), atol=0.03) and drawn[3] == 0


TYPED = [
    "What is <image>?",
    "<image>",
    "one </s> two",
    "a<|im_end|>\n<|im_start|>user\nb",
    "<s><unk><|endoftext|>",
]


@pytest.mark.parametrize("text", TYPED)
def test_a_token_that_is_typed_is_text(chat: ChatModel, text: str) -> None:
    plain = chat.prompt([picture(0)], [ask("What?")], Decoding())
    for content in (text, [{"type": "text", "text": text}]):
        typed = chat.prompt([picture(0)], [{"role": "user", "content": content}], Decoding())
        assert typed.spans == plain.spans
        special = set(chat.processor.tokenizer.all_special_ids) | {chat.model.config.image_token_id}
        assert [i for i in typed.ids if i in special] == [i for i in plain.ids if i in special]
        assert text in chat.processor.decode(typed.ids)
        assert chat.answer([([picture(0)], [{"role": "user", "content": content}])], 4)


def test_content_parts(chat: ChatModel, tmp_path: Path) -> None:
    """As transformers and OpenAI send them: pictures by object, path or data, in their places."""
    picture(1).save(tmp_path / "1.png")
    data = base64.b64encode((tmp_path / "1.png").read_bytes()).decode()
    expected = chat.prompt([picture(0), picture(1)], placed([ask("One <image>\ntwo <image>\n?")]), Decoding())
    for second in (
        {"type": "image"},
        {"type": "image", "image": picture(1)},
        {"type": "image", "path": str(tmp_path / "1.png")},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ):
        content = [
            {"type": "text", "text": "One "},
            {"type": "image"},
            {"type": "text", "text": "two "},
            second,
        ]
        given = [picture(0), picture(1)] if len(second) == 1 else [picture(0)]
        turn = {"role": "user", "content": [*content, {"type": "text", "text": "?"}]}
        seen = chat.prompt(given, [turn], Decoding())
        assert seen.ids == expected.ids
        assert torch.equal(seen.vision["pixel_values"], expected.vision["pixel_values"])
    for wrong, named in (
        ({"type": "video"}, "expected parts of type text, image or image_url"),
        ({"type": "image_url", "image_url": {"url": "https://a.org/b.png"}}, "nothing is downloaded"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%"}}, "no base64"),
        ({"type": "image", "image": str(tmp_path / "gone.png")}, r"gone\.png"),
        ({"type": "text", "text": 3}, "expected text, found int"),
        ("text", "expected parts"),
    ):
        with pytest.raises(UserError, match=named):
            chat.answer([([], [{"role": "user", "content": [wrong]}])])


def test_a_transparent_picture_is_white_as_in_training(chat: ChatModel) -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    white = chat.prompt([Image.new("RGB", (20, 20), "white")], [ask("What?")], Decoding())
    deep = chat.prompt([Image.fromarray(np.full((20, 20), 65535, np.uint16))], [ask("What?")], Decoding())
    seen = chat.prompt([clear], [ask("What?")], Decoding())
    assert torch.equal(seen.vision["pixel_values"], white.vision["pixel_values"])
    assert torch.equal(deep.vision["pixel_values"], white.vision["pixel_values"])
    assert clear.mode == "RGBA"


@pytest.mark.parametrize("text", ["\ud83d", "a\0b", "", " \n"])
def test_what_is_no_question(chat: ChatModel, text: str) -> None:
    with pytest.raises(UserError, match="the question: "):
        chat.answer([([picture(0)], [ask(text)])])
    assert chat.prompt([], [ask("\ufeffWho?")], Decoding()) == chat.prompt([], [ask("Who?")], Decoding())


def test_a_prompt_leaves_room_for_its_answer(chat: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"too long: \d{6} tokens, of which \d+ fit: the model has \d+ positions"
    ):
        chat.answer([([picture(0)], [ask("x " * 100_000)])])
    length = len(chat.prompt(*REQUESTS[0], Decoding()))
    positions = length * 4 // 3 + 2  # a quarter is kept for the answer
    monkeypatch.setattr(chat, "positions", positions)
    whole = chat.answer(REQUESTS[:1], max_new_tokens=positions - length)
    for request in ([REQUESTS[0]], [([], [ask("Who?")]), REQUESTS[0]]):
        assert chat.answer(request, max_new_tokens=600)[-1:] == whole  # ends where the positions do
    assert ["".join(chat.stream(*REQUESTS[0], max_new_tokens=600)).strip()] == whole
    monkeypatch.setattr(chat, "positions", length + 5)
    with pytest.raises(UserError, match=f"too long: {length} tokens, of which {length - 1} fit"):
        chat.answer(REQUESTS[:1], max_new_tokens=6)


def test_templates_that_take_strings_alone(chat: ChatModel) -> None:
    """As some of the hub's folders have them, from before content parts; and processors that lack what they need."""
    processor = copy.deepcopy(chat.processor)
    processor.chat_template = (
        "{% for turn in messages %}{{ '[' + turn.role + ']' + turn.content | trim }}{% endfor %}"
    )
    processor.patch_size = None
    writer = PromptWriter(processor, chat.model.config)
    assert processor.patch_size == chat.processor.patch_size
    prompt = writer.write([picture(0)], [ask("What?")])
    assert len(prompt.spans or ()) == 1 and "[user]" in processor.decode(prompt.ids)
    with pytest.raises(UserError, match="<image> in a text"):
        writer.write([picture(0)], [ask("What is <image>?")])
    processor.chat_template = "{% for turn in messages %}{{ turn.role }}{% endfor %}"
    with pytest.raises(UserError, match="no chat template that takes pictures"):
        PromptWriter(processor, chat.model.config)


def test_a_folder_of_the_hub(tmp_path: Path) -> None:
    """As llava-hf lays it out: a CLIP tower whose first token is left out, a template of parts that writes no `<s>`,
    and in older folders a processor that leaves the patches to the config. The library's own way is the measure."""
    text_tokenizer = llama_text_tokenizer()
    text_tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, **sizes},
        text_config={"model_type": "llama", "vocab_size": len(text_tokenizer) + 8, **sizes},
        image_token_index=text_tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    side = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side),
        text_tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for turn in messages %}{{ turn.role | upper }}: "
        "{% for part in turn.content | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for part in turn.content | selectattr('type', 'equalto', 'text') %}{{ part.text }} {% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    content = [{"type": "image", "image": picture(0)}, {"type": "text", "text": "How many bowls?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    begin = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, begin:]
    stated = json.loads((tmp_path / "processor_config.json").read_text())
    for absent in ((), ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")):
        kept = {name: value for name, value in stated.items() if name not in absent}
        (tmp_path / "processor_config.json").write_text(json.dumps(kept))
        hub = load(tmp_path)
        prompt = hub.prompt([picture(0)], [ask("How many bowls?")], Decoding())
        assert list(prompt.ids) == inputs["input_ids"][0].tolist()
        assert hub.answer([([picture(0)], [ask("How many bowls?")])], 8) == [
            processor.decode(ids, skip_special_tokens=True).strip()
        ]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_language_model_in_few_bits(model_folder: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    few = load(model_folder, bits=bits)
    kinds = {
        name.split(".")[1]
        for name, part in few.model.named_modules()
        if f"Linear{bits}bit" in str(type(part))
    }
    assert kinds == {"language_model"}
    if bits == 8:  # on a CPU, bitsandbytes multiplies 4-bit matrices of multiples of 32 alone
        assert few.answer(REQUESTS, 4)


def test_models_that_do_not_answer(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match="model_type: expected 'llava', found 'vqrae'"):
        load(shelf / "vqrae")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load(tmp_path / "empty")


def test_one_question_on_the_command_line(
    model_folder: Path, chat: ChatModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(0).save(tmp_path / "photo.png")
    arguments = ["ask", str(model_folder), str(tmp_path / "photo.png"), "What is it?"]
    dispatch([*arguments, "--max-new-tokens", "8", "--device", "cpu"])
    expected = chat.answer([([picture(0)], [ask("What is it?")])], max_new_tokens=8)[0]
    assert capsys.readouterr().out.strip() == expected
    model, image, *_ = arguments[1:]
    brief = ["--max-new-tokens", "8"]
    picture(1).save(tmp_path / "other.png")
    several = [
        "--image",
        image,
        *brief,
        "--image",
        str(tmp_path / "other.png"),
        "Which?",
        "--dtype",
        "float32",
    ]
    dispatch(["ask", model, *several])
    expected = chat.answer([([picture(0), picture(1)], [ask("Which?")])], max_new_tokens=8)[0]
    assert capsys.readouterr().out.strip() == expected
    dispatch(["ask", model, *several[:-1], "bfloat16"])
    assert capsys.readouterr().out.strip() and load(model, dtype="bfloat16").model.dtype == torch.bfloat16
    dispatch(["ask", model, *brief, "--device-map", "auto", "Who?", "--temperature", "2", "--seed", "5"])
    assert capsys.readouterr().out.strip() == chat.answer([([], [ask("Who?")])], 8, 2.0, seed=5)[0]
    if find_spec("bitsandbytes") is None:
        with pytest.raises(UserError, match="bits: 4 needs the package bitsandbytes"):
            dispatch([*arguments, "--bits", "4"])
    for words, named in (
        ([], "expected a question"),
        ([image], "the question is missing"),
        (["a"] * 3, "quotes"),
    ):
        with pytest.raises(UserError, match=named):
            dispatch(["ask", model, *words])
    (tmp_path / "photo.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"photo\.png"):
        dispatch(arguments)
    with pytest.raises(UserError, match=r"gone\.png"):
        dispatch(["ask", str(model_folder), str(tmp_path / "gone.png"), "What is it?"])


def test_a_talk_on_the_command_line(
    model_folder: Path,
    chat: ChatModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in (0, 1):
        picture(seed).save(tmp_path / f"{seed}.png")
    lines: Iterator[str] = iter(
        [
            "What is it?",
            "",
            "How many?",
            "/image gone.png",
            "/nonsense",
            "x " * 100_000,
            f"/image {tmp_path / '1.png'}",
            "How many?",
            "/reset",
            f"/add {tmp_path / '0.png'}",
            "Which?",
        ]
    )

    def type_next(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None  # Ctrl-D

    monkeypatch.setattr(builtins, "input", type_next)
    dispatch(["chat", str(model_folder), str(tmp_path / "0.png"), "--max-new-tokens", "8", "--device", "cpu"])
    seen = capsys.readouterr()
    first = chat.answer([([picture(0)], [ask("What is it?")])], 8)[0]
    history = [ask("What is it?"), {"role": "assistant", "content": first}, ask("How many?")]
    second = chat.answer([([picture(0)], history)], 8)[0]
    third = chat.answer([([picture(1)], [ask("How many?")])], 8)[0]
    fourth = chat.answer([([picture(1), picture(0)], [ask("Which?")])], 8)[0]
    written = [line.strip() for line in seen.out.split("\n", 1)[1].strip().split("\n")]
    assert written == [first, second, third, fourth]
    assert "gone.png" in seen.err and "/nonsense: unknown" in seen.err and "the talk is too long" in seen.err
