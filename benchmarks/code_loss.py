"""Memory and time of the generator's loss: the head at visual positions and code rows only, against the usual ones.

    python -m benchmarks.code_loss                # Qwen3-0.6B's head, sequences of 100 text tokens and 1024 codes

Three ways to the gradients of one micro-batch, from hidden states on, each in a process of its own, whose peak of
memory beyond what it started with is reported:

    all positions     V logits at every position, as transformers' own loss
    full              V logits where a code is predicted (`loss_vocabulary: full`)
    codes             K logits where a code is predicted (`loss_vocabulary: codes`)
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks.measure import in_own_process, peak_memory, restart_peak, wait
from common.command import described_parser
from common.errors import run_cli

WIDTH, TEXT, CODES = 1024, 151669, 16384
WAYS = ("all positions", "full", "codes")


def main() -> None:
    parser = described_parser(__doc__)
    parser.add_argument("--sequences", type=int, default=1, help="of a micro-batch")
    parser.add_argument("--text", type=int, default=100, help="text tokens of each")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.sequences, arguments.text)))
        return
    words = ("--sequences", arguments.sequences, "--text", arguments.text)
    found = {way: in_own_process("benchmarks.code_loss", "--way", way, *words) for way in WAYS}
    for way, (memory, seconds) in found.items():
        ratios = memory / found["codes"][0], seconds / found["codes"][1]
        times = f"{ratios[0]:5.1f} x the memory, {ratios[1]:5.1f} x the time of `codes`"
        print(f"{way:14} {memory / 2**30:6.2f} GiB {seconds:7.2f} s   {times}")


def measure(way: str, sequences: int, text: int) -> tuple[float, float]:
    """Peak bytes beyond weights, hidden states and their gradients; seconds."""
    import torch
    import torch.nn.functional as F

    from generation.objective import next_code_loss
    from generation.vocabulary import VisualVocabulary

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vocabulary = VisualVocabulary(
        offset=TEXT,
        codebook_size=CODES,
        grid=(32, 32),
        image_size=512,
        max_length=1536,
        vqrae_sha256="0" * 64,
    )
    tokens, length = vocabulary.image_tokens, text + vocabulary.image_tokens
    dtype = torch.bfloat16
    # Drawn and filled in place: what is needed for a moment only would hide in the peak.
    head = torch.empty(vocabulary.rows, WIDTH, device=device, dtype=dtype).normal_(std=0.02).requires_grad_()
    hidden = torch.empty(sequences, length, WIDTH, device=device, dtype=dtype).normal_().requires_grad_()
    targets = torch.randint(0, CODES, (sequences * tokens,), device=device)
    predictors = torch.arange(sequences * length, device=device).view(sequences, length)[:, text:].flatten()
    head.grad, hidden.grad = (torch.empty_like(tensor).fill_(0) for tensor in (head, hidden))
    start = restart_peak()
    begin = time.perf_counter()
    if way == "all positions":
        labels = torch.full((sequences, length), -100, device=device)
        labels[:, text:] = targets.view(sequences, tokens) + vocabulary.first_code
        loss = F.cross_entropy(F.linear(hidden, head).float().flatten(0, 1), labels.flatten())
    else:
        over = "full" if way == "full" else "codes"
        loss = next_code_loss(hidden, head, predictors, targets, vocabulary, over).loss  # type: ignore[arg-type]
    loss.backward()
    wait()
    return peak_memory() - start, time.perf_counter() - begin


if __name__ == "__main__":
    run_cli(main)
