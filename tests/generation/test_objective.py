"""The loss over the code slice equals that of full logits in which every other id has no chance."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_generator
import torch
import torch.nn.functional as F
from torch import Tensor

from generation.dataset import SequenceBuilder
from generation.model_folder import GeneratorFolder
from generation.objective import NextCode, perplexity


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GeneratorFolder:
    return tiny_generator.write_generator(tmp_path_factory.mktemp("generator"))


def inputs(generator: GeneratorFolder) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:
    """A micro-batch of captions of different lengths, and its whole sequences."""
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    codes = torch.randint(0, 32, (4, 4, 4), generator=torch.Generator().manual_seed(0))
    captions = ["red", None, tiny_generator.CAPTIONS[1], "a photo"]
    batch = builder(codes, captions, None)
    marks = generator.vocabulary
    rows = [
        [*builder.prompt(caption, None), *marks.codes_to_ids(picture.flatten()).tolist(), marks.end_image]
        for caption, picture in zip(captions, codes, strict=True)
    ]
    return batch["input_ids"], batch["predictors"], batch["targets"], rows


@pytest.mark.parametrize("over", ["codes", "full"])
def test_the_loss_equals_that_of_full_logits(over: str, generator: GeneratorFolder) -> None:
    """Each sequence alone, unpadded and whole, through transformers' own forward pass; loss and gradients."""
    model, vocabulary = generator.model.double(), generator.vocabulary
    ids, predictors, targets, rows = inputs(generator)
    model.zero_grad()
    NextCode(model, vocabulary, over)(ids, predictors, targets).loss.backward()  # type: ignore[arg-type]
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    losses, hits = [], []
    for row in rows:
        logits = model(torch.tensor([row])).logits[0]
        if over == "codes":
            masked = torch.full_like(logits, -torch.inf)
            masked[:, vocabulary.code_slice] = logits[:, vocabulary.code_slice]
            logits = masked
        begin = row.index(vocabulary.begin_image)
        labels = torch.tensor(row)[begin + 1 : -1]  # the codes: neither text nor the marks are predicted
        losses.append(F.cross_entropy(logits[begin : begin + len(labels)].float(), labels))
        hits.append((logits[begin : begin + len(labels)].argmax(-1) == labels).double().mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    output = NextCode(model, vocabulary, over)(ids, predictors, targets)  # type: ignore[arg-type]
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.accuracy.double(), torch.stack(hits).mean())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-7, rtol=1e-4, msg=name)
    model.float()


def test_only_codes_in_the_slice_are_learned_from(generator: GeneratorFolder) -> None:
    ids, predictors, targets, rows = inputs(generator)
    picture = rows[0][rows[0].index(generator.vocabulary.begin_image) + 1 : -1]
    assert targets[: len(picture)].tolist() == [word - generator.vocabulary.first_code for word in picture]
    flat = ids.flatten()
    before = [rows[0][rows[0].index(generator.vocabulary.begin_image) + step] for step in range(len(picture))]
    assert flat[predictors[: len(picture)]].tolist() == before  # each is read where the next is predicted


def test_equal_rows_make_all_codes_equally_likely(tmp_path: Path) -> None:
    generator = tiny_generator.write_generator(tmp_path)
    rows = generator.model.lm_head.weight
    with torch.no_grad():
        rows[generator.vocabulary.code_slice] = rows[0]
    ids, predictors, targets, _ = inputs(generator)
    loss = NextCode(generator.model, generator.vocabulary, "codes")(ids, predictors, targets).loss
    torch.testing.assert_close(loss, torch.tensor(32.0).log())


def test_a_loss_beyond_measure_has_a_perplexity() -> None:
    assert (
        perplexity(0.0) == 1.0
        and perplexity(710.0) == float("inf")
        and perplexity(float("inf")) == float("inf")
    )
