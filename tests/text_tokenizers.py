"""Text tokenizers of the classes and with the special tokens of Vicuna and Qwen2.5, trained here in milliseconds."""

from __future__ import annotations

import copy
import json
from functools import cache

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SENTENCES = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.",
    "USER: What is in this photo? ASSISTANT: A photo of two giraffes and one umbrella.",
    "system\nYou are a helpful assistant. user\nHow many bowls are there? Answer with a number. assistant\n4",
    "Is there a red circle to the left of the blue square? Answer yes or no. yes no",
    "What color is the large triangle? green, yellow, orange, purple, red, blue",
    "Describe the image in one sentence. There are three small circles on a white background.",
)


def llama_text_tokenizer() -> PreTrainedTokenizerFast:
    """As Vicuna's: byte fallback, `<s>` in front, `</s>` ends, padded with `<unk>`; about 450 tokens. A new copy."""
    return copy.deepcopy(_llama())


def qwen_text_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen2.5-Instruct's: byte level, `<|im_end|>` ends, padded with `<|endoftext|>`; about 450. A new copy."""
    return copy.deepcopy(_qwen())


@cache
def _llama() -> LlamaTokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    sentences = [sentence.replace("\n", " ") for sentence in SENTENCES]  # Llama's newline is the byte <0x0A>
    trained.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=190, show_progress=False))
    vocabulary, merges = _vocabulary(trained)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *vocabulary]
    return LlamaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        pad_token="<unk>",
        add_bos_token=True,
    )


@cache
def _qwen() -> Qwen2Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=440, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(SENTENCES, trainer)
    vocabulary, merges = _vocabulary(trained)
    text_tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate([*vocabulary, "<|endoftext|>"])}, merges=merges
    )
    text_tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    text_tokenizer.eos_token = "<|im_end|>"
    return text_tokenizer


def _vocabulary(trained: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens by id, and the merges in order."""
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), [
        (left, right) for left, right in model["merges"]
    ]
