"""VQRAE: one tokenizer for understanding, generation and reconstruction.

    from vqrae import VQRAE
    model = VQRAE.from_pretrained("runs/demo/tokenizer_stage2/model")
    encoding = model.encode(pixels)         # features (B, N, D), codes (B, h, w)
    pixels = model.decode(encoding.codes)   # RGB in [0, 1]

    from vqrae import Generator, Sampling
    generator = Generator.from_pretrained("runs/demo/generator/model")
    (pictures,) = generator.generate("a photo of a red circle", n=4, sampling=Sampling(cfg_scale=3.0))

    from vqrae import ChatModel, ChatSession
    session = ChatSession(ChatModel.from_pretrained("runs/demo/understanding_sft/model"), ["photo.png"])
    session.ask("What color is the circle?")    # a further question costs its own tokens alone

Names are imported when they are first used: `import vqrae` alone loads no model library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.models.vqrae import VQRAE, VQRAEConfig
    from evals.scorers.best_of import best_of
    from generation.generator import Generator
    from generation.sampling import Sampling
    from understanding.chat.decoding import Decoding
    from understanding.chat.model import ChatModel
    from understanding.chat.session import ChatSession

__all__ = [
    "VQRAE",
    "ChatModel",
    "ChatSession",
    "Decoding",
    "Generator",
    "Sampling",
    "VQRAEConfig",
    "__version__",
    "best_of",
]

HOMES = {
    "VQRAE": "common.models.vqrae",
    "VQRAEConfig": "common.models.vqrae",
    "ChatModel": "understanding.chat.model",
    "ChatSession": "understanding.chat.session",
    "Decoding": "understanding.chat.decoding",
    "Generator": "generation.generator",
    "Sampling": "generation.sampling",
    "best_of": "evals.scorers.best_of",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vqrae")
    if name in HOMES:
        from importlib import import_module

        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
