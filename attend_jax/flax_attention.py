"""Flax's `dot_product_attention` on `attend`: the `attention_fn` of its multi-head attention, nnx and Linen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.nnx.nn import dtypes
from jaxtyping import Array, Float

from attend_jax.functional import compute


def dot_product_attention(
    query: Float[Array, "*batch i h d"],
    key: Float[Array, "*batch j hk d"],
    value: Float[Array, "*batch j hk e"],
    bias: Float[Array, ...] | None = None,
    mask: jax.Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: jax.Array | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Any = None,
    precision: Any = None,
    module: Any = None,
    *,
    is_causal: bool = False,
    promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: None = None,
    qk_attn_weights_einsum: None = None,
    attn_weights_value_einsum: None = None,
    implementation: str = "auto",
    sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> Float[Array, "*batch i h e"]:
    """What `flax.nnx.dot_product_attention` and `flax.linen.dot_product_attention` compute, by `attend_jax.attend`.

    Any number of batch axes, none included. `h` is a multiple of `hk` (grouped heads).

    Args:
      query, key, value: promoted to one dtype, or to `dtype`, as Flax does it.
      bias: added to the scaled scores; broadcasts to (batch..., h, i, j).
      mask: of any dtype, what is not 0 = attend; broadcasts to (batch..., h, i, j). A row that may attend nothing
        attends every key uniformly, in Flax too.
      broadcast_dropout: drop the same weights in every batch and head, as Flax does by default.
      dropout_rng, dropout_rate, deterministic: as in Flax; which weights a key drops is decided otherwise (S6), without
        a mask in memory. A rate of 1 gives zeros.
      dtype: of the computation and the output; None means by promotion.
      precision: as `attend` has it: None means accurate to fp32 for fp32 inputs on every device.
      is_causal: upper left, as in Flax: row r attends key c when c <= r.
      promote_dtype: as in flax.nnx: takes (query, key, value) and `dtype`.
      force_fp32_for_softmax: the softmax is in float32 either way; True gives the output in it, as Flax does.
      module, einsum_dot_general, qk_attn_weights_einsum, attn_weights_value_einsum: must be None; the weights are never
        held as a whole, and the products are `implementation`'s own.
      implementation: as `attend` has it; bind it with functools.partial.
      sharding: as `attend` has it, of the query in layout "bnhd" with its batch axes made one.

    Raises:
      TypeError, ValueError: what was expected, what came, what to do; before any compute.

    >>> from flax import nnx
    >>> layer = nnx.MultiHeadAttention(
    ...     num_heads=4, in_features=32, attention_fn=dot_product_attention, decode=False, rngs=nnx.Rngs(0)
    ... )
    >>> layer(jnp.ones((2, 3, 7, 32)), mask=jnp.ones((2, 3, 1, 7, 7))).shape
    (2, 3, 7, 32)
    """
    if module is not None:
        raise ValueError(
            "`module` must be None: the attention weights are never held as a whole, so they cannot be sown; got "
            f"{type(module).__name__}. Leave out sow_weights, or use Flax's own attention_fn to look at them."
        )
    for name, given in (
        ("einsum_dot_general", einsum_dot_general),
        ("qk_attn_weights_einsum", qk_attn_weights_einsum),
        ("attn_weights_value_einsum", attn_weights_value_einsum),
    ):
        if given is not None:
            raise ValueError(
                f"`{name}` must be None: the products belong to the implementation; got {given!r}. Leave it out, or "
                "use Flax's own attention_fn (a quantised product, say)."
            )
    query, key, value = promote_dtype((query, key, value), dtype=dtype)
    batch = _batch(query, key, value)
    scores = (*batch, query.shape[-2], query.shape[-3], key.shape[-3])
    if bias is not None:
        bias = jnp.asarray(bias)
        if bias.dtype != jnp.bool_:  # which `attend` refuses, and adding it would be 0 or 1
            bias = bias.astype(jnp.promote_types(bias.dtype, query.dtype))
        bias = _one_batch_axis("bias", bias, scores)
    if mask is not None:
        mask = _one_batch_axis("mask", jnp.asarray(mask).astype(bool), scores)
    query, key, value = (x.reshape(math.prod(batch), *x.shape[-3:]) for x in (query, key, value))
    output, _ = compute(
        query,
        key,
        value,
        bias,
        mask=mask,
        causal="upper_left" if is_causal else False,
        scale=None,
        dropout_rate=0.0 if deterministic else dropout_rate,
        dropout_rng=dropout_rng,
        dropout_mask=None,
        layout="bnhd",
        return_logsumexp=False,
        implementation=implementation,
        precision=precision,
        sharding=sharding,
        broadcast_dropout=broadcast_dropout,
    )
    output = output.reshape(*batch, *output.shape[1:])
    return output.astype(jnp.promote_types(output.dtype, jnp.float32)) if force_fp32_for_softmax else output


def _batch(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[int, ...]:
    """The batch axes, which are the same for all three."""
    if not query.ndim == key.ndim == value.ndim >= 3 or not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(
            "`query`, `key` and `value` must have shape (batch..., length, heads, features) with the same batch axes; "
            f"got query {query.shape}, key {key.shape}, value {value.shape}."
        )
    return query.shape[:-3]


def _one_batch_axis(name: str, array: jax.Array, scores: tuple[int, ...]) -> jax.Array:
    """(batch... h i j), or what broadcasts to it, -> (b h i j); a batch of 1 where all batch axes broadcast."""
    shape = (1,) * (len(scores) - array.ndim) + array.shape
    if len(shape) != len(scores) or any(size not in (1, full) for size, full in zip(shape, scores, strict=True)):
        raise ValueError(
            f"`{name}` must broadcast to (batch..., heads, q_len, kv_len) = {scores} without enlarging it; got shape "
            f"{array.shape}. Each axis, counted from the last, must be 1 or the full size."
        )
    batch = shape[:-3] if all(size == 1 for size in shape[:-3]) else scores[:-3]
    return jnp.broadcast_to(array, (*batch, *shape[-3:])).reshape(math.prod(batch), *shape[-3:])
