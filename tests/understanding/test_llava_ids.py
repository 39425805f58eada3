"""Ids and masks equal LLaVA's own, conversation by conversation; and what training saw is what an export gives.

`llava_ids.json` holds what the preprocess functions of haotian-liu/LLaVA (c121f04) made of each record, with
transformers 4.37.2 and the text tokenizer of `llava_text_tokenizer`: pieces, what is learned in brackets. Null is a
record that they fail on; an empty text one of which they learn nothing. `legacy` absent equalled true in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llava_text_tokenizer import write_llava_text_tokenizer
from text_tokenizers import llama_text_tokenizer, qwen_text_tokenizer
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common.language.causal_lm import load_text_tokenizer as load_plainly
from common.language.frozen_tokenizer import freeze
from understanding.conversation import BadSample, Conversation, encode, read_conversation
from understanding.text_tokenizer import load_text_tokenizer, prepare_text_tokenizer

MADE = json.loads((Path(__file__).parent / "llava_ids.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in MADE["cases"]}
COLUMN = {True: "legacy_true", None: "legacy_true", False: "legacy_false"}
# Records that LLaVA fails on or, in a batch, gives another record's picture; and how they are counted here.
UNUSABLE = {
    "plain_text": "refused by the template",
    "plain_text_image": "refused by the template",  # LLaVA shows it a black picture
    "plain_turns": "refused by the template",
    "plain_answer_image": "more image placeholders than images",
    "two_turns_for_one": "more image placeholders than images",
    "both_image": "more image placeholders than images",
    "nothing": "empty conversation",
    "twice": "turns do not alternate",
    "twice_human": "turns do not alternate",
    "only_question": "no answer",
    "empty_last": "empty answer",
    "eos_question": "a control token in the text",
    "eos_answer": "a control token in the text",
    "eos_mid": "a control token in the text",
    "unk": "a control token in the text",
}
# Of these LLaVA learns nothing, because its masks count turns in the text; here their answers are learned. It has no
# system's turns.
MORE = ("empty_last2", "empty_question", "empty_question2", "trailing_question", "trailing_question_im")
MORE += ("sep_question", "sep_answer", "system")
# A picture that no message mentions: LLaVA shows it to nobody, and fails on it in pretraining; here it stands first.
UNMENTIONED = ("no_placeholder", "plain_noplace", "gpt_first_image")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    for legacy in COLUMN:
        write_llava_text_tokenizer(folder / str(legacy), legacy)
    return folder


@cache
def ready(folder: Path, template: str) -> PreTrainedTokenizerFast:
    return load_text_tokenizer(str(folder), template, "<unk>")


def conversation_of(case: dict[str, Any]) -> Conversation:
    turns = [{"from": role, "value": text} for role, text in case["turns"]]
    placeholders = sum(text.count("<image>") for _, text in case["turns"])
    images = ["a.jpg"] * placeholders if case.get("places") else "a.jpg"
    record = {"id": "x", "conversations": turns, **({"image": images} if case["image"] else {})}
    if not (case.get("places") and placeholders == 1):
        return read_conversation(record)
    messages = [
        {"role": {"human": "user", "gpt": "assistant"}[role], "content": text} for role, text in case["turns"]
    ]
    return Conversation("x", ("a.jpg",), tuple(messages))  # where it stands, as several would


def marked(case: dict[str, Any], text_tokenizer: PreTrainedTokenizerFast) -> str:
    encoded = encode(conversation_of(case), text_tokenizer, image_tokens=1, max_length=10_000)
    pieces = text_tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    text = " ".join(
        f"[{piece}]" if said else piece for piece, said in zip(pieces, encoded.learned, strict=True)
    )
    return text.replace(MADE["system"], "SYSTEM")


@pytest.mark.parametrize("legacy", COLUMN)
def test_ids_and_masks_are_llavas(legacy: bool | None, folders: Path) -> None:
    compared = 0
    for name, case in CASES.items():
        text_tokenizer = ready(folders / str(legacy), case["template"])
        if name in UNUSABLE:
            with pytest.raises(BadSample) as raised:
                marked(case, text_tokenizer)
            assert raised.value.reason == UNUSABLE[name], name
        elif name in MORE:
            assert not case[COLUMN[legacy]] and "[" in marked(case, text_tokenizer), name
        elif name in UNMENTIONED:
            (role, text), *others = case["turns"][name == "gpt_first_image" :]
            mentioned = {**case, "turns": [[role, f"<image>\n{text}"], *others]}
            assert "<image>" in marked(case, text_tokenizer) == marked(mentioned, text_tokenizer), name
        else:
            assert marked(case, text_tokenizer) == case[COLUMN[legacy]], name
            compared += 1
    assert compared == len(CASES) - len(UNUSABLE) - len(MORE) - len(UNMENTIONED) >= 34


@pytest.mark.parametrize("legacy", COLUMN)
@pytest.mark.parametrize("template", ["plain", "vicuna_v1"])
def test_what_is_saved_gives_the_ids_of_training(
    legacy: bool | None, template: str, folders: Path, tmp_path: Path
) -> None:
    """Also when it is saved and loaded twice, as it is from pretraining to fine-tuning to serving."""
    trained = ready(folders / str(legacy), template)
    trained.save_pretrained(tmp_path / "once")
    load_text_tokenizer(str(tmp_path / "once"), template).save_pretrained(tmp_path / "twice")
    for saved in (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("once", "twice")):
        assert saved.chat_template == trained.chat_template
        for case in CASES.values():
            if case["template"] == template and case["name"] not in UNUSABLE and case["image"]:
                assert marked(case, saved) == marked(case, trained), case["name"]


def test_rules_that_a_tokenizer_json_states_are_kept(folders: Path, tmp_path: Path) -> None:
    """transformers before 5 wrote Llama's rules as a normalizer; the class of 5 builds others from its settings."""
    text_tokenizer = AutoTokenizer.from_pretrained(folders / "True")
    rules = text_tokenizer.backend_tokenizer
    rules.pre_tokenizer = None
    rules.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rules.save(str(tmp_path / "tokenizer.json"))
    settings = json.loads((folders / "None" / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "LlamaTokenizerFast"})
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    stated = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    loaded = load_plainly(tmp_path)
    for text in ("A chat</s>USER: <s>\nHow many?", "  two blanks", "\n"):
        assert loaded(text)["input_ids"] == stated.encode(text).ids
    for template in ("plain", "vicuna_v1"):
        for case in CASES.values():
            # Of an empty caption the newline shares its place in the text with the start of the word before it.
            if case["template"] == template and case["name"] not in (
                *UNUSABLE,
                *MORE,
                *UNMENTIONED,
                "plain_empty",
            ):
                assert marked(case, ready(tmp_path, template)) == case["legacy_true"], case["name"]


@pytest.mark.parametrize("made", [llama_text_tokenizer, qwen_text_tokenizer])
def test_a_frozen_text_tokenizer_is_the_same(made: Callable[[], PreTrainedTokenizerFast]) -> None:
    before = made()
    after = freeze(before)
    assert type(after) is PreTrainedTokenizerFast and len(after) == len(before)
    assert after.special_tokens_map == before.special_tokens_map
    for text in ("Is there a red circle?", "  x\n\n y</s>z<|im_end|>", "<s> 4é"):
        assert after(text)["input_ids"] == before(text)["input_ids"]
        assert after.decode(after(text)["input_ids"]) == before.decode(before(text)["input_ids"])


def test_what_qwen_reads_between_pictures_is_as_it_is_alone() -> None:
    """A byte-level tokenizer puts no blank before a text, so none is written either."""
    text_tokenizer = prepare_text_tokenizer(qwen_text_tokenizer(), "qwen")
    conversation = conversation_of({"turns": [["human", "<image>What?"], ["gpt", "red"]], "image": True})
    ids = encode(conversation, text_tokenizer, 1, 10_000).ids
    behind = ids[list(ids).index(text_tokenizer.convert_tokens_to_ids("<image>")) + 1 :]
    alone = text_tokenizer("\nWhat?<|im_end|>", add_special_tokens=False)["input_ids"]
    assert behind[: len(alone)].tolist() == alone
