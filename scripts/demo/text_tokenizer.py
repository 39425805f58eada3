"""A text tokenizer for the miniature world: Qwen's kind (byte-level BPE), with merges from the world's captions.

    python -m scripts.demo.text_tokenizer --world runs/demo/world --out runs/demo/text_tokenizer

Any text has ids, since every byte is a token; the words of the captions are nearly all one token each.
"""

from __future__ import annotations

import json
from typing import Any

from common.errors import UserError, run_cli
from scripts.demo.command import world_parser
from scripts.demo.world import read_records

VOCABULARY = 360
"""Tokens: 256 bytes, the end of text, and 103 merges, which make nearly every word of the captions one token."""

ANY = 1 << 20  # more tokens than the words of any world need


def main() -> None:
    arguments = world_parser(__doc__, "folder of the text tokenizer").parse_args()
    captions = [record["caption"] for record in read_records(arguments.world / "captions.jsonl")]
    text_tokenizer = learn_tokens(captions)
    text_tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: {len(text_tokenizer)} tokens")


def learn_tokens(captions: list[str], size: int | None = VOCABULARY, controls: tuple[str, ...] = ()) -> Any:
    """A `Qwen2Tokenizer` (Qwen3's class) of exactly `size` tokens, and the `controls` of a chat template behind them.

    With `size` None, every word is one token.

    Raises:
        UserError: the captions have too few distinct words for so many merges.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=ANY if size is None else size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(captions, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].__getitem__), "<|endoftext|>"]
    if size is not None and len(tokens) != size:
        raise UserError(f"captions: too few different words for {size} tokens, found {len(tokens)}")
    text_tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[(left, right) for left, right in model["merges"]],
    )
    if controls:
        from tokenizers import AddedToken

        text_tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    return text_tokenizer


if __name__ == "__main__":
    run_cli(main)
