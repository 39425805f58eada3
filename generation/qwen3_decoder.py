"""Qwen3, one token at a time, over a cache that is allocated once.

What is notable here: the weights are those of a `Qwen3ForCausalLM`, the arithmetic is its own, and everything that
costs time in a loop of a thousand steps is gone. Keys and values are written in place, so no step copies the past.
Rotations are looked up. Query heads that share a key head attend as one longer query, so keys are never repeated. q, k
and v are one product, so are gate and up. Only the head's rows of the codes are read, of 16 thousand and not of 168. On
a CPU the weights are repacked once into oneDNN's blocked layout, without which a product of a few rows runs at a third
of the memory's bandwidth.

The weights of the layers are copied (fused, and repacked on a CPU): a decoder does not follow later training until
`refresh` copies them again, into the same memory.

Legend: R rows (sequences), S new tokens of each, T slots of the cache, d width, H query heads, KV key heads, G = H / KV
query heads that share a key head, c width of a head, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = Callable[[], Sequence[Tensor | None]]


class Decoder:
    """The forward pass of a `Qwen3ForCausalLM`, for sampling only: no gradients, no dropout.

    Args:
        model: in any floating type, on any one device.
        head_rows: the ids whose logits are wanted.

    Raises:
        ValueError: another architecture, or one of its variants that is not written here.
    """

    def __init__(self, model: Any, head_rows: slice) -> None:
        config = model.config
        _check(config)
        self.model = model
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_width: int = config.head_dim
        self.eps: float = config.rms_norm_eps
        self.embedding: Tensor = model.model.embed_tokens.weight.detach()
        self.rotary: Any = model.model.rotary_emb
        self.norm: Tensor = model.model.norm.weight.detach()
        self.activation: Any = model.model.layers[0].mlp.act_fn
        with torch.no_grad():
            self.layers = [_Layer(layer, self.heads, self.key_heads) for layer in model.model.layers]
            self.head = Product(lambda: [model.lm_head.weight[head_rows]], lambda: [None])

    @torch.no_grad()
    def refresh(self, model: Any) -> None:
        """Take over the weights as they are now. Memory stays what it was, so that a recorded graph stays right; on a
        CPU the repacked weights are made anew, one product after the other.

        Raises:
            ValueError: another model than the decoder was made of, or one whose weights have moved since.
        """
        if model is not self.model or self.embedding.data_ptr() != model.model.embed_tokens.weight.data_ptr():
            raise ValueError("refresh: expected the model that this was made of, its weights where they were")
        for layer in self.layers:
            layer.refresh()
        self.head.refresh()

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def new_cache(self, rows: int, slots: int) -> Cache:
        """Room for `rows` sequences of `slots` tokens each."""
        positions = torch.arange(slots, device=self.device)[None]
        cos, sin = self.rotary(self.embedding[:1], positions)
        shape = (rows, self.key_heads, slots, self.head_width)
        return Cache(len(self.layers), shape, cos[0], sin[0], self.embedding)

    def __call__(
        self, ids: Tensor, cache: Cache, rows: slice, slots: Tensor, length: int, bias: Tensor
    ) -> Tensor:
        """Continue sequences by S tokens.

        Args:
            ids: (R, S) int64.
            cache: what came before; receives the new keys and values.
            rows: the R rows of the cache that these are.
            slots: (S,) int64, consecutive: the slots that the new tokens take.
            length: slots that are attended to, the first ones.
            bias: (R, 1, S, length), 0 where a new token sees a slot and minus infinity where it does not.

        Returns:
            Logits (R, K) float32 of what follows the last token.
        """
        count, new = ids.shape
        group = self.heads // self.key_heads
        positions = (slots - cache.padding[rows, None]).clamp_min(0)
        cos, sin = cache.cos[positions][:, :, None], cache.sin[positions][:, :, None]  # (R, S, 1, c)
        # Token and head of a query as one axis, for each key head: (R, KV, S G, c).
        bias = bias if new == 1 else bias.repeat_interleave(group, dim=2)
        hidden = F.embedding(ids, self.embedding)
        width = (hidden.shape[-1],)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            normed = F.rms_norm(hidden, width, layer.input_norm, self.eps)
            heads = layer.qkv(normed).view(count, new, self.heads + 2 * self.key_heads, self.head_width)
            turned = F.rms_norm(heads[:, :, : -self.key_heads], (self.head_width,), None, self.eps)
            turned = _rotated(turned * layer.head_norms, cos, sin)
            keys[rows].index_copy_(2, slots, turned[:, :, self.heads :].transpose(1, 2))
            values[rows].index_copy_(2, slots, heads[:, :, -self.key_heads :].transpose(1, 2))
            queries = turned[:, :, : self.heads].unflatten(2, (self.key_heads, group)).transpose(1, 2)
            attended = F.scaled_dot_product_attention(
                queries.reshape(count, self.key_heads, new * group, self.head_width),
                keys[rows, :, :length],
                values[rows, :, :length],
                attn_mask=bias,
            )
            attended = attended.unflatten(2, (new, group)).transpose(1, 2).reshape(count, new, -1)
            hidden = hidden + layer.out(attended)
            normed = F.rms_norm(hidden, width, layer.post_norm, self.eps)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            hidden = hidden + layer.down(self.activation(gate) * up)
        return self.head(F.rms_norm(hidden[:, -1], width, self.norm, self.eps)).float()


class Cache:
    """Keys and values of all layers, (R, KV, T, c) each, and where each row begins.

    `padding` (R,): rows are aligned at their right end, so a shorter prompt leaves its first slots unused.
    """

    def __init__(
        self, layers: int, shape: tuple[int, int, int, int], cos: Tensor, sin: Tensor, like: Tensor
    ) -> None:
        # Zeros, not garbage: a slot that is hidden has weight 0, and 0 times NaN would still be NaN.
        self.keys = [like.new_zeros(shape) for _ in range(layers)]
        self.values = [like.new_zeros(shape) for _ in range(layers)]
        self.slots = shape[2]
        self.cos, self.sin = cos, sin  # (T, c), by position
        self.padding = torch.zeros(shape[0], dtype=torch.int64, device=like.device)

    def causal_bias(self, rows: slice, start: int, stop: int) -> Tensor:
        """(R, 1, S, stop) for the new tokens at slots start .. stop - 1: each sees its row's past and itself."""
        key = torch.arange(stop, device=self.padding.device)
        query, begin = key[start:, None], self.padding[rows, None, None]
        # Unused slots see themselves, since a softmax over nothing is NaN; nobody sees them.
        seen = ((key <= query) & (key >= begin)) | (key == query)
        return torch.zeros(seen.shape, dtype=self.cos.dtype, device=seen.device).masked_fill_(
            ~seen, -torch.inf
        )[:, None]


class _Layer:
    """One layer's weights, as the decoder wants them."""

    def __init__(self, layer: Any, heads: int, key_heads: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _fused(attention.o_proj)
        self.gate_up = _fused(mlp.gate_proj, mlp.up_proj)
        self.down = _fused(mlp.down_proj)
        # The model's own memory: these follow it.
        self.input_norm: Tensor = layer.input_layernorm.weight.detach()
        self.post_norm: Tensor = layer.post_attention_layernorm.weight.detach()
        norms = (attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(key_heads, -1))
        self._norms = norms
        self.head_norms = torch.cat(norms)  # (H + KV, c)

    def refresh(self) -> None:
        for product in (self.qkv, self.out, self.gate_up, self.down):
            product.refresh()
        self.head_norms.copy_(torch.cat(self._norms))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _fused(*layers: nn.Linear) -> Product:
    """The outputs of several linear layers of one input, side by side."""
    return Product(lambda: [layer.weight for layer in layers], lambda: [layer.bias for layer in layers])


class Product:
    """(..., in) -> (..., out), by copies of weights, which are taken one below the other.

    Args:
        weights, biases: what they are now; biases are all None, or none of them is.
    """

    def __init__(self, weights: Parts, biases: Parts) -> None:
        self._weights, self._biases = weights, biases
        self.weight, self.bias = _joined(weights()), _joined(biases())
        assert self.weight is not None
        self.packed: Tensor | None = None
        if self.weight.device.type == "cpu" and self.weight.dtype == torch.float32 and _has_onednn():
            self.packed, self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None), None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)  # type: ignore[arg-type]

    def refresh(self) -> None:
        weight, bias = _joined(self._weights()), _joined(self._biases())
        if self.packed is not None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        for kept, now in ((self.weight, weight), (self.bias, bias)):
            if kept is not None:
                kept.copy_(now)  # type: ignore[arg-type]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part.detach() for part in parts if part is not None]
    return torch.cat(there) if there else None


def _has_onednn() -> bool:
    """Whether this build of torch has the products over repacked weights, which its own compiler uses."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _check(config: Any) -> None:
    if config.model_type != "qwen3":
        raise ValueError(f"model_type: expected 'qwen3', found {config.model_type!r}")
    if set(config.layer_types) != {"full_attention"}:
        raise ValueError("layer_types: only full attention is written here, found a sliding window")
    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind in ("dynamic", "longrope"):  # their rotations depend on how long the sequence has become
        raise ValueError(f"rope_parameters: rotations of kind {kind!r} are not written here")
