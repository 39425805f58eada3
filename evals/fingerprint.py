"""A benchmark's protocol is what reaches the model: a digest of prompts, to the last byte.

Data sets cannot tell it, since the same rows are asked in many ways (another hint, a system text, pictures elsewhere).
So each benchmark renders prompts by the very code that asks, and their digest stands in the result; `targets.yaml`
has the digest of those that the authors' tool sends, found by running that tool.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from evals.command import spread

PROMPTS = 20


def fingerprint(prompts: Sequence[Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of 20 prompts at even distances; of all, where they are fewer.

    Args:
        prompts: texts, or whatever else of JSON's types says what was asked: pictures' digests, how much to answer.
    """
    chosen = json.dumps(spread(prompts, PROMPTS), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(chosen.encode("utf-8", "surrogatepass")).hexdigest()[:16]
