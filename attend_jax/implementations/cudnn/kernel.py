"""cuDNN's kernel on arrays of any length and head size, forward and backward, and under vmap.

Rows added at the end are dropped and get no cotangent. Keys added at the end are out of reach: of every real row of a
causal square, behind the bias, or behind the kernel's own sequence lengths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attend_jax import private


class Arrays(NamedTuple):
    """In the layout of the call; the bias is (b h i j), with 1 for b or h where it is shared, or None."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: jax.Array | None


class Saved(NamedTuple):
    """What the backward pass needs besides; the log-sum-exp may be that of a longer row, of which this is a part."""

    output: jax.Array
    logsumexp: Float[Array, "b h i"]
    cotangent: jax.Array
    dlogsumexp: Float[Array, "b h i"] | None


@dataclasses.dataclass(frozen=True)
class Call:
    """What is static. `dbias`: whether the bias has a gradient; `logsumexp`: whether that is a result, with one."""

    scale: float
    layout: str
    dbias: bool
    logsumexp: bool = False
    causal: bool = False

    @property
    def rows(self) -> int:
        """The axis of the length."""
        return 2 if self.layout == "bhnd" else 1


def forward(call: Call, arrays: Arrays) -> jax.Array:
    """The output, where no gradient is asked for."""

    def run(*arrays: Any) -> jax.Array:
        padded, kv_seen = _padded(call, Arrays(*arrays))
        output = private.cudnn().forward(call, kv_seen, *padded)
        return _cut(call, output, arrays[0].shape[call.rows], arrays[2].shape[3])

    return _over_examples(run)(*arrays)


def forward_and_logsumexp(call: Call, arrays: Arrays) -> tuple[jax.Array, Any]:
    """Output and float32 log-sum-exp (b h i): what the backward pass needs."""

    def run(*arrays: Any) -> tuple[jax.Array, Any]:
        padded, kv_seen = _padded(call, Arrays(*arrays))
        output, logsumexp = private.cudnn().forward_and_logsumexp(call, kv_seen, *padded)
        length = arrays[0].shape[call.rows]
        return _cut(call, output, length, arrays[2].shape[3]), logsumexp[:, :, :length]

    return _over_examples(run)(*arrays)


def backward(call: Call, arrays: Arrays, saved: Saved) -> Arrays:
    """The gradients, given the cotangents. Those of the bias are None if it has none.

    With p the weights the kernel computes p * (dp - rowsum(output * cotangent)); the log-sum-exp's cotangent belongs in
    that sum. So the output gets features that hold its negative, in parts which have no more bits than the dtype, and
    the cotangent ones beside them; the value has zeros there, so dp and the other gradients know nothing of it.
    """

    def run(*flat: Any) -> tuple[Any, ...]:
        arrays, (output, logsumexp, cotangent, dlogsumexp) = Arrays(*flat[:4]), flat[4:]
        if dlogsumexp is not None:
            parts = jnp.stack(_split(-dlogsumexp, output.dtype), axis=-1)
            parts = parts if call.layout == "bhnd" else jnp.swapaxes(parts, 1, 2)
            output = jnp.concatenate([output, parts], axis=-1)
            cotangent = jnp.concatenate([cotangent, jnp.ones_like(parts)], axis=-1)
        padded, kv_seen = _padded(call, arrays)
        rows = padded.query.shape[call.rows] - output.shape[call.rows]
        output, cotangent = (_pad(call, x, rows, padded.query.shape[3]) for x in (output, cotangent))
        logsumexp = jnp.pad(logsumexp, ((0, 0), (0, 0), (0, rows)))
        found = private.cudnn().backward(call, kv_seen, *padded, output, logsumexp, cotangent)
        dquery, dkey, dvalue = (
            _cut(call, gradient, x.shape[call.rows], x.shape[3]) for gradient, x in zip(found, arrays[:3], strict=False)
        )
        dbias = None
        if call.dbias and arrays.bias is not None:
            dbias = found[3][:, :, : arrays.bias.shape[2], : arrays.bias.shape[3]]
        return dquery, dkey, dvalue, dbias

    return Arrays(*_over_examples(run)(*arrays, *saved))


def _split(number: jax.Array, dtype: Any) -> list[jax.Array]:
    """Float32 numbers as the sum of three of 16 bits: no bit is lost where they are neither huge nor tiny."""
    parts = []
    for _ in range(EXTRA):
        parts.append(number.astype(dtype))
        number = number - parts[-1].astype(number.dtype)
    return parts


def _over_examples(function: Callable[..., Any]) -> Any:
    """Under vmap the examples are a larger batch: JAX's own rule fails, or sums what it must not (jax#39451).

    One after the other only where all of a batch share a bias, which would have to be copied for each.
    """
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def rule(size: int, is_mapped: Any, *arrays: Any) -> tuple[Any, Any]:
        query, bias = arrays[0], arrays[3]
        batch = query.shape[1 if is_mapped[0] else 0]
        if bias is not None and bias.shape[1 if is_mapped[3] else 0] < batch:
            of_example = [x for x, own in zip(arrays, is_mapped, strict=True) if own is True]

            def one(own: Any) -> Any:
                rest = iter(own)
                return mapped(*(next(rest) if m is True else x for x, m in zip(arrays, is_mapped, strict=True)))

            results = jax.lax.map(one, of_example)
        else:
            folded = [
                None if x is None else _fold(x if own else jnp.broadcast_to(x, (size, *x.shape)))
                for x, own in zip(arrays, is_mapped, strict=True)
            ]
            results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), mapped(*folded))
        return results, jax.tree.map(lambda _: True, results)

    return mapped


def _fold(array: jax.Array) -> jax.Array:
    return array.reshape(-1, *array.shape[2:])


EXTRA = 3  # features that the log-sum-exp's cotangent takes


def head_size(head_dim: int, value_dim: int, logsumexp: bool) -> int:
    """The kernel wants one head size, a multiple of 8; zeros behind the real features change nothing."""
    return -(-max(head_dim, value_dim + (EXTRA if logsumexp else 0)) // 8) * 8


def lowest(dtype: jax.typing.DTypeLike) -> float:
    """What hides a key behind the bias: below any score that is not itself a fill (S17).

    It is added to the score, not put in its place, so in float16 no finite number is low enough; no row is hidden as a
    whole, which would make NaN of -inf. In bfloat16 half the lowest, so that log2(e) times it stays finite.
    """
    return -jnp.inf if dtype == jnp.float16 else 0.5 * float(jnp.finfo(dtype).min)


def _padded(call: Call, arrays: Arrays) -> tuple[Arrays, int | None]:
    """As the kernel takes them, and how many keys it may see, None for all."""
    query, key, value, bias = arrays
    q_len, kv_len = query.shape[call.rows], key.shape[call.rows]
    size = head_size(query.shape[3], value.shape[3], call.logsumexp)
    q_pad, kv_pad = (_length(length, bias is not None) - length for length in (q_len, kv_len))
    query = _pad(call, query, q_pad, size)
    key, value = (_pad(call, x, kv_pad, size) for x in (key, value))
    if bias is not None and (q_pad or kv_pad):
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, kv_pad)), constant_values=lowest(bias.dtype))
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, q_pad), (0, 0)))
    kv_seen = kv_len if kv_pad and bias is None and not call.causal else None
    return Arrays(query, key, value, bias), kv_seen


def _length(length: int, biased: bool) -> int:
    """Even, because differentiating the kernel raises for odd lengths (still in jax 0.11.2).

    With a bias also not 64 beyond a multiple of 128: cuDNN's backward pass has given NaN there for rows whose
    log-sum-exp is below -88 (pytorch#196678).
    """
    length += length % 2
    return length + 64 if biased and length % 128 == 64 else length


def _pad(call: Call, array: jax.Array, rows: int, features: int) -> jax.Array:
    if not rows and array.shape[3] == features:
        return array
    axes = [(0, 0), (0, 0), (0, 0), (0, features - array.shape[3])]
    axes[call.rows] = (0, rows)
    return jnp.pad(array, axes)


def _cut(call: Call, array: jax.Array, length: int, features: int) -> jax.Array:
    if array.shape[call.rows] == length and array.shape[3] == features:
        return array
    return jax.lax.slice_in_dim(array[..., :features], 0, length, axis=call.rows)
