"""Every check of `attend`'s arguments, before any compute.

The wording (what was expected, what came, what to do) is the same in `attend_torch.validation`; the code is not
shared, so that a wrong check cannot hide itself by being wrong on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attend_jax.masks import CAUSAL

LAYOUTS = ("bhnd", "bnhd")


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if not isinstance(value, (str, bool)) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; got {value!r}.")


def check_options(
    *, causal: object, scale: object, dropout_rate: object, layout: object, precision: object = None
) -> None:
    """Check what a module knows when it is built."""
    one_of("causal", causal, tuple(CAUSAL))
    one_of("layout", layout, LAYOUTS)
    if isinstance(dropout_rate, bool) or not isinstance(dropout_rate, (int, float)):
        raise TypeError(
            f"`dropout_rate` must be a Python number between 0 and 1; got {type(dropout_rate).__name__}. "
            "It is static: under jit, close over it."
        )
    if not 0 <= dropout_rate <= 1:
        raise ValueError(
            f"`dropout_rate` must lie between 0 and 1; got {dropout_rate!r}. It is the share that is dropped."
        )
    _check_scale(scale)
    if precision is not None:
        _check_precision(precision)


def _check_scale(scale: object) -> None:
    if scale is None:
        return
    if isinstance(scale, (jax.Array, np.ndarray, np.generic)):
        if scale.shape != () or not jnp.issubdtype(scale.dtype, jnp.floating):
            raise TypeError(f"`scale` must be one floating point number; got {scale.dtype} of shape {scale.shape}.")
        return
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"`scale` must be a number or None (head_dim ** -0.5); got {type(scale).__name__}.")
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be finite; got {scale!r}.")


def _check_precision(precision: Any) -> None:
    one = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    try:
        jax.eval_shape(lambda x: jnp.dot(x, x, precision=precision), one)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`precision` must be None or what jax.lax.dot_general takes as precision (a name such as 'highest', a "
            f"jax.lax.Precision or a jax.lax.DotAlgorithmPreset); got {precision!r}."
        ) from error


def check_tensors(
    query: Any, key: Any, value: Any, bias: Any, mask: Any, dropout_mask: Any, *, layout: str, dropout_rate: float,
    parts: int = 1,
) -> None:  # fmt: skip
    """Check ranks, dtypes and shapes of the arrays of one call; key and value may be one of several parts."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        _check_array(name, array)
        if array.ndim != 4:
            raise ValueError(f"`{name}` must have 4 axes ({' '.join(layout)}); got shape {array.shape}.")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"`{name}` must be floating point; got {array.dtype}. Convert it first.")
        if array.dtype != query.dtype:
            raise TypeError(
                f"`query`, `key` and `value` must share one dtype; `query` has {query.dtype}, `{name}` {array.dtype}."
            )
    head, length = (1, 2) if layout == "bhnd" else (2, 1)
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape} in layout {layout!r}"
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

    scores = (query.shape[0], heads, query.shape[length], key.shape[length] * parts)
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
        _check_array("dropout_mask", dropout_mask)
        if dropout_mask.shape != scores:
            raise ValueError(
                f"`dropout_mask` must have shape (batch, heads, q_len, kv_len) = {scores}; got {dropout_mask.shape}."
            )
        _check_boolean("dropout_mask", dropout_mask, "True = keep")


def check_dropout_rng(rng: Any) -> None:
    """Raise unless `rng` is one JAX random key, new style or raw."""
    if rng is None:
        raise ValueError(
            "`dropout_rng` must be a JAX random key when weights are dropped (dropout_rate > 0); got None. Pass "
            "jax.random.key(seed), or dropout_rate=0 in evaluation."
        )
    if not hasattr(rng, "dtype") or not hasattr(rng, "shape"):
        raise TypeError(f"`dropout_rng` must be a JAX random key, as from jax.random.key(0); got {type(rng).__name__}.")
    typed = jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    if (typed and rng.shape != ()) or (not typed and (rng.dtype != jnp.uint32 or len(rng.shape) != 1)):
        raise TypeError(f"`dropout_rng` must be one JAX random key; got {rng.dtype} of shape {rng.shape}.")


def _check_array(name: str, array: Any) -> None:
    if not all(hasattr(array, attribute) for attribute in ("shape", "dtype", "ndim")):
        raise TypeError(f"`{name}` must be a JAX or NumPy array; got {type(array).__name__}.")


def _check_broadcast(name: str, array: Any, scores: tuple[int, ...]) -> None:
    _check_array(name, array)
    padded = (1,) * (4 - array.ndim) + tuple(array.shape)
    if len(padded) != 4 or any(size not in (1, full) for size, full in zip(padded, scores, strict=True)):
        raise ValueError(
            f"`{name}` must broadcast to (batch, heads, q_len, kv_len) = {scores} without enlarging it; got shape "
            f"{array.shape}. Each axis, counted from the last, must be 1 or the full size."
        )


def _check_bias_dtype(bias: Any, query: Any) -> None:
    if not jnp.issubdtype(bias, jnp.floating):
        raise TypeError(f"`bias` must be floating point; got {bias}. A boolean mask goes in as `mask`.")
    fp32_on_16_bit = bias == jnp.float32 and jnp.dtype(query).itemsize == 2
    if bias != query and jnp.dtype(bias).itemsize >= jnp.dtype(query).itemsize and not fp32_on_16_bit:
        raise TypeError(
            f"`bias` must have query's dtype, a narrower one, or float32 with 16-bit inputs; got {bias} with {query}."
        )


def _check_boolean(name: str, array: Any, meaning: str) -> None:
    if array.dtype != jnp.bool_:
        raise TypeError(f"`{name}` must be boolean ({meaning}); got {array.dtype}.")
