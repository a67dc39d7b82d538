"""Every check of `attend`'s arguments, before any compute.

The wording (what was expected, what came, what to do) is the same in `attend_jax.validation`; the code is not
shared, so that a wrong check cannot hide itself by being wrong on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from attend_torch.masks import CAUSAL

LAYOUTS = ("bhnd", "bnhd")
IMPLEMENTATIONS = ("plain", "fused")


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, (str, bool, type(None))) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; got {value!r}.")


def check_options(
    *, causal: object, scale: object, dropout_rate: object, layout: object, implementation: object
) -> None:
    """Check what a module knows when it is built."""
    one_of("causal", causal, tuple(CAUSAL))
    one_of("layout", layout, LAYOUTS)
    one_of("implementation", implementation, IMPLEMENTATIONS)
    if isinstance(dropout_rate, bool) or not isinstance(dropout_rate, (int, float)):
        raise TypeError(f"`dropout_rate` must be a number between 0 and 1; got {type(dropout_rate).__name__}.")
    if not 0 <= dropout_rate <= 1:
        raise ValueError(
            f"`dropout_rate` must lie between 0 and 1; got {dropout_rate!r}. It is the share that is dropped."
        )
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"`scale` must be a number or None (head_dim ** -0.5); got {type(scale).__name__}.")
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be finite; got {scale!r}.")


def check_tensors(
    query: Any, key: Any, value: Any, bias: Any, mask: Any, dropout_mask: Any, *, layout: str, dropout_rate: float
) -> None:
    """Check ranks, dtypes and shapes of the tensors of one call."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{name}` must be a torch.Tensor; got {type(tensor).__name__}.")
        if tensor.ndim != 4:
            raise ValueError(f"`{name}` must have 4 axes ({' '.join(layout)}); got shape {tuple(tensor.shape)}.")
        if not tensor.is_floating_point():
            raise TypeError(f"`{name}` must be floating point; got {tensor.dtype}. Convert it first.")
        if tensor.dtype != query.dtype:
            raise TypeError(
                f"`query`, `key` and `value` must share one dtype; `query` has {query.dtype}, `{name}` {tensor.dtype}."
            )
    head, length = (1, 2) if layout == "bhnd" else (2, 1)
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} in layout {layout!r}"
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError(f"the batch sizes must be equal, a batch of 1 is not stretched; got {shapes}.")
    if key.shape[head] != value.shape[head]:
        raise ValueError(f"key and value must have the same number of heads; got {shapes}.")
    heads, kv_heads = query.shape[head], key.shape[head]
    if heads != kv_heads and (kv_heads == 0 or heads % kv_heads):
        raise ValueError(f"query heads must be a multiple of key heads ({heads} is not of {kv_heads}); got {shapes}.")
    if query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must have the same head size; got {shapes}.")
    if query.shape[3] == 0:
        raise ValueError(f"the head size of query and key must be at least 1; got {shapes}.")
    if key.shape[length] != value.shape[length]:
        raise ValueError(f"key and value must have the same length; got {shapes}.")

    scores = (query.shape[0], heads, query.shape[length], key.shape[length])
    if bias is not None:
        _check_broadcast("bias", bias, scores)
        _check_bias_dtype(bias.dtype, query.dtype)
    if mask is not None:
        _check_broadcast("mask", mask, scores)
        _check_boolean("mask", mask, "True = attend; an additive mask is a `bias`")
    if dropout_mask is not None:
        if dropout_rate == 0:
            raise ValueError(
                "`dropout_mask` drops weights in training only; got one with a dropout rate of 0 (evaluation). "
                "Leave it out, or train with a dropout rate above 0."
            )
        if not isinstance(dropout_mask, torch.Tensor):
            raise TypeError(f"`dropout_mask` must be a torch.Tensor; got {type(dropout_mask).__name__}.")
        if tuple(dropout_mask.shape) != scores:
            got = tuple(dropout_mask.shape)
            raise ValueError(f"`dropout_mask` must have shape (batch, heads, q_len, kv_len) = {scores}; got {got}.")
        _check_boolean("dropout_mask", dropout_mask, "True = keep")


def _check_broadcast(name: str, tensor: Any, scores: tuple[int, ...]) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor or None; got {type(tensor).__name__}.")
    shape = tuple(tensor.shape)
    padded = (1,) * (4 - len(shape)) + shape
    if len(padded) != 4 or any(size not in (1, full) for size, full in zip(padded, scores, strict=True)):
        raise ValueError(
            f"`{name}` must broadcast to (batch, heads, q_len, kv_len) = {scores} without enlarging it; got shape "
            f"{shape}. Each axis, counted from the last, must be 1 or the full size."
        )


def _check_bias_dtype(bias: torch.dtype, query: torch.dtype) -> None:
    if not bias.is_floating_point:
        raise TypeError(f"`bias` must be floating point; got {bias}. A boolean mask goes in as `mask`.")
    fp32_on_16_bit = bias == torch.float32 and query.itemsize == 2
    if bias != query and bias.itemsize >= query.itemsize and not fp32_on_16_bit:
        raise TypeError(
            f"`bias` must have query's dtype, a narrower one, or float32 with 16-bit inputs; got {bias} with {query}."
        )


def _check_boolean(name: str, tensor: torch.Tensor, meaning: str) -> None:
    if tensor.dtype != torch.bool:
        raise TypeError(f"`{name}` must be boolean ({meaning}); got {tensor.dtype}.")
