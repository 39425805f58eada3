"""Prompts: the same ids in training and sampling, whatever people write."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_generator
from text_tokenizers import qwen_text_tokenizer

from common.errors import UserError
from generation.dataset import SequenceBuilder
from generation.model_folder import GeneratorFolder
from generation.prompt import prompt_ids


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GeneratorFolder:
    return tiny_generator.write_generator(tmp_path_factory.mktemp("generator"))


ODD = [
    "red",
    "  a\tred\n circle ",
    "日本語の絵",
    "🦒🦒",
    "<|code_3|> and <|begin_image|>",
    "<|endoftext|>",
    "\ud800 torn",
]


@pytest.mark.parametrize("text", ODD)
def test_any_text_becomes_text_ids_and_begin_image(text: str, generator: GeneratorFolder) -> None:
    *words, last = prompt_ids(generator.text_tokenizer, text)
    assert last == generator.vocabulary.begin_image and words
    assert max(words) < generator.vocabulary.offset
    control = qwen_text_tokenizer().convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert not set(words) & set(control)


def test_white_space_is_no_difference(generator: GeneratorFolder) -> None:
    same = {tuple(prompt_ids(generator.text_tokenizer, text)) for text in ("a red dog", " a  red\ndog\n")}
    assert len(same) == 1


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_prompt_is_the_unconditional_one(text: str | None, generator: GeneratorFolder) -> None:
    assert prompt_ids(generator.text_tokenizer, text) == [generator.vocabulary.begin_image]


def test_a_prompt_of_ten_thousand_words_is_refused_or_cut(generator: GeneratorFolder) -> None:
    text_tokenizer, room = generator.text_tokenizer, generator.vocabulary.text_room
    text = "red circle " * 5000
    with pytest.raises(UserError, match=f"tokens, but {room} fit beside a picture") as error:
        prompt_ids(text_tokenizer, text, room=room)
    assert len(str(error.value)) < 200
    whole, cut = prompt_ids(text_tokenizer, text), prompt_ids(text_tokenizer, text, room=room, truncate=True)
    assert len(cut) == room + 1 and cut[:-1] == whole[:room] and cut[-1] == whole[-1]


@pytest.mark.parametrize("text", [*ODD, "", *tiny_generator.CAPTIONS])
def test_training_and_sampling_read_the_same_ids(text: str, generator: GeneratorFolder) -> None:
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    sampled = prompt_ids(generator.text_tokenizer, text, room=generator.vocabulary.text_room)
    assert builder.prompt(text, position=None) == sampled
    dropping = SequenceBuilder(generator.text_tokenizer, generator.vocabulary, dropout=1.0)
    assert dropping.prompt(text, position=5) == prompt_ids(generator.text_tokenizer, None)


def test_a_text_tokenizer_that_was_not_expanded_is_refused() -> None:
    plain: Any = qwen_text_tokenizer()
    with pytest.raises(ValueError, match=r"no token <\|begin_image\|>"):
        prompt_ids(plain, "a dog")
