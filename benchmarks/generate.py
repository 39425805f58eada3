"""How fast pictures are drawn: our sampler against Hugging Face `generate`, on the same weights.

    python benchmarks/generate.py [--steps N] [--output OUT]

Random weights of a Qwen3 of 512 x 12 (on a GPU: of Qwen3-0.6B's shape, bfloat16, several batch sizes), Qwen3's text
vocabulary and 16,384 codes, 1024 codes a picture, every picture guided, so two rows each. All arms are greedy, which is
the cheapest for `generate`, under the same code mask; ours is timed with random draws too.

    ours           `generation.sampler.Sampler`
    doubled        `generate`, dynamic cache, conditional and unconditional rows in one batch
    unbatched      `generate`, dynamic cache, `UnbatchedClassifierFreeGuidanceLogitsProcessor`

Each arm runs in a process of its own, so that its peak memory is its own; repeats alternate between the arms and the
best counts. The floor is the time to read once what a step must read (layers, the head's codes, all keys and values so
far) at the bandwidth that a plain reduction reaches here, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cli

TEXT_VOCABULARY, CODES = 151_669, 16_384  # Qwen3's; the paper's codebook
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
ARMS = ("ours", "ours, random draws", "doubled", "unbatched")
WARM_UP = 8  # codes drawn before the clock starts
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1024, help="codes per picture (default: 1024)")
    parser.add_argument("--images", type=int, nargs="+", help="pictures at once (default: 4; GPU: 1 4 16 64)")
    parser.add_argument("--repeats", type=int, default=2, help="default: 2")
    parser.add_argument("--text-vocabulary", type=int, default=TEXT_VOCABULARY, help="default: Qwen3's")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks/generate"), help="default: %(default)s"
    )
    # Set in the processes that this one starts.
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps <= WARM_UP or options.repeats < 1:
        raise UserError(f"--steps, --repeats: expected more than {WARM_UP}, and 1 or more")
    if options.arm:
        print(json.dumps(measure(options.arm, options.images[0], options.steps, options.text_vocabulary)))
        return

    import torch

    images = options.images or ([1, 4, 16, 64] if torch.cuda.is_available() else [4])
    results = {"bandwidth_gb_s": bandwidth(), "device": device_name(), "batches": [], "steps": options.steps}
    for count in images:
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for repeat in range(options.repeats):
            for arm in ARMS:
                print(
                    f"{count} pictures, {arm}, {repeat + 1} of {options.repeats}", file=sys.stderr, flush=True
                )
                found[arm].append(in_own_process(arm, count, options))
        best = {arm: min(runs, key=lambda run: run["ms_per_step"]) for arm, runs in found.items()}
        results["batches"].append(summary(count, best, results["bandwidth_gb_s"]))
    report(results, options.output)


def in_own_process(arm: str, images: int, options: argparse.Namespace) -> dict[str, Any]:
    """Raises `UserError` if the arm failed."""
    words = ["--arm", arm, "--images", images, "--steps", options.steps]
    words += ["--text-vocabulary", options.text_vocabulary]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{arm}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
    if cuda:
        torch.cuda.synchronize()
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
        keys = [picture_key(0, 0, sample) for sample in range(images)]
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


def restart_peak() -> float:
    """Bytes that this process holds now (on a GPU: there); `peak_memory` counts from here on."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak may lie before
        Path("/proc/self/clear_refs").write_text("5")
    import psutil

    return float(psutil.Process().memory_info().rss)


def peak_memory() -> float:
    """The most bytes held since `restart_peak`."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024.0 * int(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def bandwidth() -> float:
    """GB/s at which a reduction reads memory far larger than any cache; the best of several."""
    import torch

    cuda = torch.cuda.is_available()
    block = torch.ones(1 << 28, device="cuda" if cuda else "cpu")  # 1 GB
    rates = []
    for _ in range(6):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        block.sum()
        if cuda:
            torch.cuda.synchronize()
        rates.append(block.numel() * block.element_size() / 1e9 / (time.perf_counter() - started))
    return max(rates)


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def summary(images: int, arms: dict[str, dict[str, Any]], rate: float) -> dict[str, Any]:
    """Times, ratios and the floor of one batch size."""
    ours = arms["ours"]
    floor = ours["bytes_per_step"] / rate / 1e6
    agree = {
        arm: sum(
            a == b
            for x, y in zip(ours["codes"], run["codes"], strict=True)
            for a, b in zip(x, y, strict=True)
        )
        / sum(map(len, ours["codes"]))
        for arm, run in arms.items()
        if arm in ("doubled", "unbatched")
    }
    return {
        "images": images,
        "arms": {
            arm: {key: run[key] for key in ("ms_per_step", "images_per_second", "memory_mb")}
            for arm, run in arms.items()
        },
        "times_faster": {arm: arms[arm]["ms_per_step"] / ours["ms_per_step"] for arm in agree},
        "equal_codes": agree,
        "floor_ms_per_step": floor,
        "share_of_floor": floor / ours["ms_per_step"],
    }


def report(results: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from common.training.run import versions

    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**results, "versions": versions()}, indent=2)
    (output / "results.json").write_text(text + "\n", encoding="utf-8")
    table = Table(title=f"{results['device']}, {results['steps']} codes, guided", title_justify="left")
    for column in (
        "pictures",
        "arm",
        "ms per step",
        "pictures/s",
        "peak MB over the model",
        "ours is faster",
        "equal codes",
    ):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for batch in results["batches"]:
        for arm, run in batch["arms"].items():
            faster, equal = batch["times_faster"].get(arm), batch["equal_codes"].get(arm)
            table.add_row(
                str(batch["images"]),
                arm,
                f"{run['ms_per_step']:.2f}",
                f"{run['images_per_second']:.4f}",
                f"{run['memory_mb']:.0f}",
                f"{faster:.2f} x" if faster else "",
                f"{equal:.1%}" if equal is not None else "",
            )
        table.add_row(
            "", "floor", f"{batch['floor_ms_per_step']:.2f}", "", "", f"ours: {batch['share_of_floor']:.0%}"
        )
    console = Console()
    console.print(table)
    console.print(f"memory read at {results['bandwidth_gb_s']:.1f} GB/s; {output / 'results.json'}")


if __name__ == "__main__":
    run_cli(main)
