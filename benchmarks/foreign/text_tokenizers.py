"""Text tokenizers of the classes that Llama and Qwen use, without merges: every text has ids, most of them letters."""

from __future__ import annotations

import string

from tokenizers import pre_tokenizers
from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

BEGIN_OF_WORD = "▁"


def llama_kind() -> PreTrainedTokenizerFast:
    """SentencePiece's rules: begins of words are marked, `<s>` stands in front, unknown letters become bytes."""
    letters = [BEGIN_OF_WORD, *string.ascii_letters, *string.digits, *".,?!:'"]
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *letters,
        BEGIN_OF_WORD + "A",
    ]
    return LlamaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[(BEGIN_OF_WORD, "A")],
        pad_token="<unk>",
        add_bos_token=True,
    )


def qwen_kind() -> PreTrainedTokenizerFast:
    """Bytes, and the tokens of ChatML."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    text_tokenizer = Qwen2Tokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
    controls = ("<|im_start|>", "<|im_end|>")
    text_tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in controls])
    return text_tokenizer
