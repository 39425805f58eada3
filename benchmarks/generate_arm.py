"""One arm of `benchmarks/generate.py`, in a process of its own: how long a step takes, and the peak of memory.

Started as `python -m benchmarks.generate_arm --arm ours --images 4 --steps 1024`; prints JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.generate import ARMS, TEXT_VOCABULARY, WARM_UP
from benchmarks.measure import peak_memory, restart_peak, wait
from common.command import described_parser

CODES = 16_384  # the paper's codebook
SCALE = 5.0
PROMPT_TOKENS = 16
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
QWEN3_0_6B = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
MB = 1e6


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--images", type=int, required=True, help="pictures at once")
    parser.add_argument("--steps", type=int, required=True, help="codes per picture")
    parser.add_argument("--text-vocabulary", type=int, default=TEXT_VOCABULARY, help="default: Qwen3's")
    options = parser.parse_args()
    print(json.dumps(measure(options.arm, options.images, options.steps, options.text_vocabulary)))


def measure(arm: str, images: int, steps: int, text_vocabulary: int) -> dict[str, Any]:
    """One arm's time per step, peak memory beyond the model's, and a sum of its codes to compare with the others'."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, set_seed

    from generation.vocabulary import VisualVocabulary

    cuda = torch.cuda.is_available()
    vocabulary = VisualVocabulary(
        offset=text_vocabulary,
        codebook_size=CODES,
        grid=(32, 32),
        image_size=512,
        max_length=1536,
        vqrae_sha256="0" * 64,
    )
    config = Qwen3Config(
        vocab_size=vocabulary.rows,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **(QWEN3_0_6B if cuda else SMALL),
    )
    set_seed(0)
    model = (
        Qwen3ForCausalLM(config)
        .eval()
        .to("cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
    )
    prompt = [*torch.randint(text_vocabulary, (PROMPT_TOKENS,)).tolist(), vocabulary.begin_image]
    before = restart_peak()
    draw = prepared(arm, model, vocabulary, prompt, images)
    draw(steps if cuda else WARM_UP)  # on a GPU it records the graphs; and whatever else happens once
    started = time.perf_counter()
    codes = draw(steps)
    wait()
    seconds = time.perf_counter() - started
    weights = sum(p.numel() * p.element_size() for layer in model.model.layers for p in layer.parameters())
    width = config.num_key_value_heads * config.head_dim * model.lm_head.weight.element_size()
    token = 2 * width * config.num_hidden_layers  # bytes of one token's keys and values
    # The conditional row sees the prompt and the codes so far, the unconditional one begin_image and the codes.
    seen = images * (2 * (steps / 2) + PROMPT_TOKENS + 2)
    return {
        "ms_per_step": 1000 * seconds / steps,
        "images_per_second": images / seconds,
        "memory_mb": (peak_memory() - before) / MB,
        "bytes_per_step": weights
        + CODES * config.hidden_size * model.lm_head.weight.element_size()
        + seen * token,
        "codes": codes.tolist(),
    }


def prepared(arm: str, model: Any, vocabulary: Any, prompt: list[int], images: int) -> Callable[[int], Any]:
    """A function of the number of steps that draws codes (B, steps)."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

    from generation.sampler import Sampler, Sampling, picture_key

    nothing = [vocabulary.begin_image]
    if arm.startswith("ours"):
        sampler = Sampler(model, vocabulary)
        sampling = Sampling(cfg_scale=SCALE, greedy=arm == "ours")
        keys = [picture_key(0, "", sample) for sample in range(images)]
        return lambda steps: sampler.sample([prompt], nothing, [0] * images, keys, sampling, steps)

    class CodesOnly(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            masked = torch.full_like(scores, -torch.inf)
            masked[:, vocabulary.code_slice] = scores[:, vocabulary.code_slice]
            return masked

    class Halves(LogitsProcessor):
        """The first half of the rows conditional, the second not; both get the guided logits, of the codes alone."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            conditional, unconditional = scores[:, vocabulary.code_slice].chunk(2)
            masked = torch.full_like(scores, -torch.inf)
            guided = unconditional + SCALE * (conditional - unconditional)
            masked[:, vocabulary.code_slice] = guided.repeat(2, 1)
            return masked

    rows = [prompt] * images
    if arm == "doubled":
        rows = rows + [[0] * (len(prompt) - len(nothing)) + nothing] * images
    ids = torch.tensor(rows, device=model.device)
    mask = torch.ones_like(ids)
    mask[images:, : len(prompt) - len(nothing)] = 0

    def draw(steps: int) -> Any:
        processors = LogitsProcessorList([Halves()])
        if arm == "unbatched":
            unconditional = torch.tensor([nothing] * images, device=model.device)
            guidance = UnbatchedClassifierFreeGuidanceLogitsProcessor(SCALE, model, unconditional)
            processors = LogitsProcessorList([guidance, CodesOnly()])
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                logits_processor=processors,
                do_sample=False,
                max_new_tokens=steps,
                min_new_tokens=steps,
                pad_token_id=0,
            )
        return vocabulary.ids_to_codes(out[:images, len(prompt) :])

    return draw


if __name__ == "__main__":
    main()
