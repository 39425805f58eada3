"""Hot paths of the language models: on the device, and by CUDA graphs, they give what they give on the CPU.

The sampler is compared in float64, in which no draw is close enough for roundings to tip it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlavaForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu_parts.checks_tokenizer import CODES, TOWER
from common.models.encoder_loading import build_encoder
from generation.objective import next_code_loss
from generation.sampler import GRAPH_STRIDE, Sampler, picture_key
from generation.sampling import Sampling
from generation.vocabulary import VisualVocabulary
from understanding.model import llava_config
from understanding.objective import LanguageSide

TOKENS, TEXT, STEPS = 64, 100, 160


def sampler_by_graphs(device: torch.device, small: bool) -> str:
    """The sampler draws by CUDA graphs what it draws without, and what the CPU draws."""
    vocabulary = tiny_vocabulary()
    drawn = {}
    for place, graphs in ((torch.device("cpu"), False), (device, False), (device, device.type == "cuda")):
        torch.manual_seed(0)
        model = tiny_generator(vocabulary).to(torch.float64)
        sampler = Sampler(model.to(place), vocabulary, graphs=graphs, stride=GRAPH_STRIDE)
        drawn[place.type, graphs] = draw(sampler, 20 if small else STEPS)
    here = drawn["cpu", False]
    assert len(here.unique()) > 10, "too few codes to prove anything"
    for (kind, graphs), codes in drawn.items():
        name = f"{kind}{' by graphs' if graphs else ''}"
        assert torch.equal(codes, here), f"{name}: {(codes != here).float().mean():.1%} of the codes differ"
    return f"{here.numel()} codes equal" + (", by graphs too" if device.type == "cuda" else "")


def generator_in_bfloat16(device: torch.device, small: bool) -> str:
    """The sampler draws in bfloat16, by graphs nearly what it draws without."""
    vocabulary = tiny_vocabulary()
    model = tiny_generator(vocabulary).to(device, torch.bfloat16)
    ways = (False, device.type == "cuda")
    steps = 20 if small else STEPS
    eager, graphs = (draw(Sampler(model, vocabulary, way, GRAPH_STRIDE), steps) for way in ways)
    share = float(
        (eager == graphs).float().mean()
    )  # one rounding that tips a draw changes all codes behind it
    assert share > 0.5, f"{share:.1%} of the codes are equal"
    return f"{share:.1%} of {eager.numel()} codes equal"


def loss_of_codes(device: torch.device, small: bool) -> str:
    """The generator's loss and its gradient are the CPU's."""
    vocabulary = tiny_vocabulary()
    hidden, head = torch.randn(2, 40, 32), torch.randn(vocabulary.rows, 32)
    predictors, targets = torch.arange(8, 72), torch.randint(0, CODES, (64,))

    def gradient(place: torch.device) -> Tensor:
        given = hidden.clone().to(place).requires_grad_()
        where = (predictors.to(place), targets.to(place))
        next_code_loss(given, head.to(place), *where, vocabulary, "codes").loss.backward()
        assert given.grad is not None
        return given.grad.cpu()

    torch.testing.assert_close(gradient(device), gradient(torch.device("cpu")), rtol=1e-3, atol=1e-6)
    return ""


def language_side(device: torch.device, small: bool) -> str:
    """Understanding's loss and gradient, with a picture and with padding, are the CPU's."""
    text = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=TEXT
    )
    tower = build_encoder(TOWER)
    side = LanguageSide(
        LlavaForConditionalGeneration(llava_config(tower.model.config, text, TEXT + 1, TEXT, TOKENS))
    )
    image = torch.full((TOKENS,), TEXT)
    ids = torch.stack([torch.cat([image, torch.randint(1, TEXT, (32,))]) for _ in range(2)])
    mask = torch.ones_like(ids)
    mask[1, -10:] = 0
    predictors = torch.cat([torch.arange(80, 90), torch.arange(80, 84) + ids.shape[1]])
    features = torch.randn(2, TOKENS, 64)

    def gradient(place: torch.device) -> tuple[Tensor, Tensor]:
        side.to(place).zero_grad()
        loss, _ = side(ids, features.to(place), predictors, ids.flatten()[predictors + 1], mask)
        loss.backward()
        return loss.detach().cpu(), side.llava.model.multi_modal_projector.linear_1.weight.grad.cpu()

    (loss, grad), (there, grad_there) = gradient(torch.device("cpu")), gradient(device)
    torch.testing.assert_close(there, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_there, grad, rtol=1e-2, atol=1e-6)
    return f"loss {float(loss):.4f}"


def tiny_vocabulary() -> VisualVocabulary:
    return VisualVocabulary(
        offset=TEXT, codebook_size=CODES, grid=(13, 13), image_size=104, max_length=400, vqrae_sha256="0" * 64
    )


def tiny_generator(vocabulary: VisualVocabulary) -> Qwen3ForCausalLM:
    """Sharper than at random, so that prompt and past matter."""
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary.rows,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def draw(sampler: Sampler, steps: int) -> Tensor:
    """Four pictures of two prompts, guided in the middle: (4, steps)."""
    nothing = [sampler.vocabulary.begin_image]
    prompts = [[3, 1, 4, *nothing], [1, 5, 9, 2, 6, *nothing]]
    keys = [picture_key(0, str(owner), sample) for owner in (0, 1) for sample in (0, 1)]
    sampling = Sampling(cfg_scale=3.0, cfg_interval=(0.1, 0.9))
    return sampler.sample(prompts, nothing, [0, 0, 1, 1], keys, sampling, steps).cpu()


CHECKS = (sampler_by_graphs, generator_in_bfloat16, loss_of_codes, language_side)
