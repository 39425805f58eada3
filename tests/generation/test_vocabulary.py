"""The visual block: where it begins, what its rows start from, and that text stays as it was."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_generator
import torch
from text_tokenizers import qwen_text_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from common.errors import UserError
from common.models.vqrae import VQRAE
from common.models.weight_files import state_sha256
from generation.model_folder import GeneratorFolder, load_generator
from generation.vocabulary import BEGIN_IMAGE, END_IMAGE, VisualVocabulary, carried, expand

TEXT = len(qwen_text_tokenizer())
VOCABULARY = VisualVocabulary(
    offset=TEXT,
    codebook_size=tiny_generator.CODES,
    grid=(4, 4),
    image_size=16,
    max_length=40,
    vqrae_sha256="0" * 64,
)


@pytest.fixture(scope="module")
def vqrae(tmp_path_factory: pytest.TempPathFactory) -> VQRAE:
    return tiny_generator.write_vqrae(tmp_path_factory.mktemp("vqrae"))


def language_model(tied: bool = True, padding: int = 13) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    shape = {key: value for key, value in tiny_generator.SHAPE.items() if key != "model_type"}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=TEXT + padding, **{**shape, "tie_word_embeddings": tied}))


def test_the_block_lies_behind_the_text() -> None:
    assert (VOCABULARY.begin_image, VOCABULARY.end_image, VOCABULARY.first_code) == (TEXT, TEXT + 1, TEXT + 2)
    assert VOCABULARY.rows == TEXT + 2 + 32 and VOCABULARY.code_slice == slice(TEXT + 2, TEXT + 34)
    assert VOCABULARY.image_tokens == 16 and VOCABULARY.text_room == 40 - 16 - 2


def test_codes_become_ids_and_come_back() -> None:
    codes = torch.randint(0, 32, (3, 4, 4))
    ids = VOCABULARY.codes_to_ids(codes.to(torch.int16))
    assert ids.dtype == torch.int64 and int(ids.min()) >= VOCABULARY.first_code
    assert torch.equal(VOCABULARY.ids_to_codes(ids), codes)


@pytest.mark.parametrize("code", [-1, 32])
def test_a_code_out_of_range_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="codes: expected 0 to 31"):
        VOCABULARY.codes_to_ids(torch.tensor([0, code]))


@pytest.mark.parametrize("word", [0, TEXT, TEXT + 1, TEXT + 34])
def test_an_id_that_is_no_code_is_refused(word: int) -> None:
    with pytest.raises(ValueError, match="ids: expected"):
        VOCABULARY.ids_to_codes(torch.tensor([TEXT + 2, word]))


@pytest.mark.parametrize("start", ["mean", "codebook", "normal"])
@pytest.mark.parametrize("tied", [True, False])
def test_text_rows_are_bit_equal_after_the_expansion(tied: bool, start: Any, vqrae: VQRAE) -> None:
    model, text_tokenizer = language_model(tied), qwen_text_tokenizer()
    before = [layer.weight[:TEXT].clone() for layer in (model.model.embed_tokens, model.lm_head)]
    expand(model, text_tokenizer, vqrae, VOCABULARY, start)
    for old, layer in zip(before, (model.model.embed_tokens, model.lm_head), strict=True):
        assert len(layer.weight) == VOCABULARY.rows == len(text_tokenizer) == model.config.vocab_size
        assert torch.equal(layer.weight[:TEXT], old)
        new, mean = layer.weight[TEXT:], old.mean(0)
        if start == "mean":
            assert torch.equal(new, mean.expand_as(new))
        else:
            assert len(new[2:].unique(dim=0)) == tiny_generator.CODES
        if start == "codebook":
            torch.testing.assert_close(new[2:].mean(0), mean)
            torch.testing.assert_close((new[2:] - mean).std(), old.std(), atol=0, rtol=1e-3)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_every_visual_id_has_its_name(vqrae: VQRAE) -> None:
    text_tokenizer = qwen_text_tokenizer()
    expand(language_model(), text_tokenizer, vqrae, VOCABULARY, "mean")
    names = [BEGIN_IMAGE, END_IMAGE, "<|code_0|>", "<|code_31|>"]
    assert text_tokenizer.convert_tokens_to_ids(names) == [TEXT, TEXT + 1, TEXT + 2, TEXT + 33]
    assert text_tokenizer.decode([TEXT + 5, 7], skip_special_tokens=True) == text_tokenizer.decode([7])


def test_a_text_tokenizer_of_another_length_is_refused(vqrae: VQRAE) -> None:
    other = dataclasses.replace(VOCABULARY, offset=TEXT - 1)
    with pytest.raises(UserError, match=f"expected {TEXT - 1} tokens"):
        expand(language_model(), qwen_text_tokenizer(), vqrae, other, "mean")


@pytest.mark.parametrize("width", [8, 24, 40])
def test_carried_codes_keep_their_distances(width: int) -> None:
    """In proportion, exactly where nothing is projected away."""
    codes = torch.randn(50, 24) * torch.linspace(0.01, 2, 24) + 3
    moved = carried(codes, width, 0.02)
    assert moved.shape == (50, width) and torch.equal(moved, carried(codes, width, 0.02))
    torch.testing.assert_close(moved.std(), torch.tensor(0.02), atol=0, rtol=1e-3)
    before, after = torch.cdist(codes, codes).flatten(), torch.cdist(moved, moved).flatten()
    correlation = float(torch.corrcoef(torch.stack([before, after]))[0, 1])
    assert correlation > (0.9999 if width >= 24 else 0.8)


def test_the_hash_is_that_of_all_weights(vqrae: VQRAE, tmp_path: Path) -> None:
    vqrae.save_pretrained(tmp_path)
    again = VQRAE.from_pretrained(tmp_path)
    assert state_sha256(again.state_dict()) == state_sha256(vqrae.state_dict())
    for name in ("encoder.", "quantizer.codebook", "decoder."):
        again = VQRAE.from_pretrained(tmp_path)
        tensor = next(t for key, t in again.state_dict().items() if key.startswith(name))
        tensor.view(-1)[0] += 1e-3
        assert state_sha256(again.state_dict()) != state_sha256(vqrae.state_dict()), name


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GeneratorFolder]:
    folder = tmp_path_factory.mktemp("generator")
    return folder, tiny_generator.write_generator(folder)


def test_a_generator_loads_as_it_was_saved(generator: tuple[Path, GeneratorFolder]) -> None:
    folder, saved = generator
    loaded = load_generator(str(folder))
    assert (
        loaded.vocabulary == saved.vocabulary
        and state_sha256(loaded.vqrae.state_dict()) == saved.vocabulary.vqrae_sha256
    )
    ids = torch.tensor([[1, 2, saved.vocabulary.begin_image, saved.vocabulary.first_code]])
    assert torch.equal(loaded.model(ids).logits, saved.model(ids).logits)


@pytest.mark.slow
def test_the_folder_loads_without_our_code(generator: tuple[Path, GeneratorFolder], tmp_path: Path) -> None:
    folder, saved = generator
    code = (
        "import json, sys, torch, transformers as t\n"
        "model = t.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "words = t.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = words('a red circle<|begin_image|><|code_3|>', return_tensors='pt').input_ids\n"
        "print(json.dumps([type(model).__name__, ids[0].tolist(), float(model(ids).logits.double().sum()),"
        " 'generation' in sys.modules or 'common' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True
    )
    kind, ids, total, ours = json.loads(done.stdout.splitlines()[-1])
    assert kind == "Qwen3ForCausalLM" and not ours
    assert ids[-2:] == [saved.vocabulary.begin_image, saved.vocabulary.first_code + 3]
    assert total == float(saved.model(torch.tensor([ids])).logits.double().sum())


def test_a_generator_with_another_vqrae_is_refused(
    generator: tuple[Path, GeneratorFolder], tmp_path: Path
) -> None:
    _, saved = generator
    saved.save_pretrained(tmp_path)
    tiny_generator.write_vqrae(tmp_path / "vqrae", seed=1)
    with pytest.raises(UserError, match="vqrae: belongs to another VQRAE"):
        load_generator(str(tmp_path))


def test_what_is_no_generator_is_refused(generator: tuple[Path, GeneratorFolder], tmp_path: Path) -> None:
    _, saved = generator
    with pytest.raises(UserError, match="no vqrae/ in this folder"):
        load_generator(str(tmp_path))
    saved.save_pretrained(tmp_path)
    tiny_generator.write_language_model(tmp_path)
    with pytest.raises(UserError, match="no visual_vocabulary: this model does not write pictures"):
        load_generator(str(tmp_path))
