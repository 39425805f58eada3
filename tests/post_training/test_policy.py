"""The policy is the distribution that the sampler draws from, and learns as such."""

from __future__ import annotations

import pytest
import tiny_post_training
import torch

from evals.scorers.prompts import ScoredPrompt
from generation.dataset import SequenceBuilder
from generation.model_folder import GeneratorFolder, load_generator
from generation.sampling import Sampling
from post_training.lesson import in_turn, micro_batches, refer
from post_training.methods.contract import Chosen
from post_training.policy import Policy
from post_training.prompts import Group
from post_training.rollouts import Drawn, Roller, code_vectors, diversity, of_rank, parts

TEXTS = ("a photo of a red circle", "two squares", "a photo of a triangle left of a small red circle")
GROUPS = [Group(ScoredPrompt(text, {}), 0) for text in TEXTS]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> GeneratorFolder:
    shelf = tiny_post_training.write_shelf(tmp_path_factory.mktemp("shelf"))
    found = load_generator(str(shelf / "generator"))
    torch.manual_seed(0)
    for parameter in found.model.parameters():  # sharp enough for the prompt to matter
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    found.vqrae.eval().requires_grad_(False)
    return found


def draw(generator: GeneratorFolder, scale: float, temperature: float = 1.0, batch: int = 8) -> Drawn:
    sampling = Sampling(cfg_scale=scale, temperature=temperature)
    return Roller(generator, batch, "fp32").draw(GROUPS, 4, sampling, seed=3)


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (2.5, 1.0), (1.0, 0.5), (0.5, 1.3)])
def test_log_probs_are_the_samplers(generator: GeneratorFolder, scale: float, temperature: float) -> None:
    drawn = draw(generator, scale, temperature)
    policy = Policy(generator.model, generator.vocabulary, scale, temperature)
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    chosen = Chosen(torch.arange(12), torch.ones(12, 1))
    batches = micro_batches(policy, builder, drawn, chosen, 4, torch.device("cpu"))
    refer(batches, policy, "fp32")
    for batch in batches:
        output = policy(*batch.rows)
        assert torch.equal(batch.begin(output), output.log_probs.detach())
        assert float(batch.sampler_gap) < 1e-5
        assert torch.equal(batch.reference, output.log_probs)  # bit for bit
        output.log_probs.sum().backward()
    assert [(update, turn) for update, turn, _ in in_turn(batches, 2)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 3),
        (1, 4),
        (1, 5),
    ]
    with torch.no_grad():
        for parameter in generator.model.parameters():
            parameter.grad = None


def test_both_rows_of_guidance_learn(generator: GeneratorFolder) -> None:
    """The gradient is that of the mixed distribution; of the conditional half alone it would be another."""
    drawn = draw(generator, 2.5)
    builder = SequenceBuilder(generator.text_tokenizer, generator.vocabulary)
    policy = Policy(generator.model.double(), generator.vocabulary, 2.5, 1.0, entropy_learns=True)
    rows = policy.rows(builder, [TEXTS[0]], drawn.codes[:1])
    weight = generator.model.model.layers[0].mlp.up_proj.weight
    for wanted in ("log_probs", "entropy"):
        (slope,) = torch.autograd.grad(getattr(policy(*rows), wanted).sum(), weight)
        way = slope / slope.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(way, alpha=sign * 1e-4)
                values.append(float(getattr(policy(*rows), wanted).sum()))
                weight.add_(way, alpha=-sign * 1e-4)
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(float(slope.norm()), rel=1e-3)
    generator.model.float()


def test_rollouts_follow_from_prompt_and_number(generator: GeneratorFolder) -> None:
    whole, narrow = draw(generator, 1.5), draw(generator, 1.5, batch=3)
    assert torch.equal(whole.codes, narrow.codes)
    sampling = Sampling(cfg_scale=1.5)
    halves = [
        Roller(generator, 8, "fp32").draw(of_rank(GROUPS[:2], rank, 2), 4, sampling, seed=3)
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([half.codes for half in halves]), whole.codes[:8])
    again = Roller(generator, 8, "fp32").draw([GROUPS[0], Group(GROUPS[0].prompt, 1)], 4, sampling, seed=3)
    assert torch.equal(again.codes[:4], whole.codes[:4]) and not torch.equal(again.codes[4:], whole.codes[:4])
    assert not torch.equal(Roller(generator, 8, "fp32").draw(GROUPS, 4, sampling, seed=4).codes, whole.codes)


@pytest.mark.parametrize(
    ("groups", "size", "most"), [(3, 4, 8), (3, 4, 12), (3, 4, 3), (2, 5, 1), (1, 2, 64), (3, 4, 4)]
)
def test_every_picture_is_drawn_once(groups: int, size: int, most: int) -> None:
    found = parts(groups, size, most)
    assert [place for part in found for place in range(part.start, part.stop)] == list(range(groups * size))
    assert all(part.stop - part.start <= most for part in found)
    for part in found:  # whole groups, or parts of one
        assert part.start // size == (part.stop - 1) // size or (part.start % size == part.stop % size == 0)


def test_diversity(generator: GeneratorFolder) -> None:
    assert diversity(torch.ones(4, 3), 4).tolist() == pytest.approx([0.0], abs=1e-6)
    crossed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert diversity(crossed, 2).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    three = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert diversity(three, 3).tolist() == pytest.approx([2 / 3])
    drawn = draw(generator, 1.0)
    assert drawn.features.shape[0] == 12 and (diversity(drawn.features, 4) > 0).all()
    vectors = code_vectors(generator.vqrae, drawn.codes)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(12, 16))
