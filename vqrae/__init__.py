"""VQRAE: one tokenizer for understanding, generation and reconstruction.

    from vqrae import VQRAE
    model = VQRAE.from_pretrained("runs/demo/tokenizer")
    encoding = model.encode(pixels)         # features (B, N, D), codes (B, h, w)
    pixels = model.decode(encoding.codes)   # RGB in [0, 1]

Names are imported when they are first used: `import vqrae` alone loads no model library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.models.vqrae import VQRAE, VQRAEConfig

__all__ = ["VQRAE", "VQRAEConfig", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("vqrae")
    if name in __all__:
        from common.models import vqrae

        return getattr(vqrae, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
