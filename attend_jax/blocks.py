"""The mathematics of blockwise attention: some rows of queries against some keys, forward and backward.

The forward pass keeps one number a row, the log-sum-exp; the backward pass makes the weights again from it (Rabe and
Staats, arXiv:2112.05682; Dao et al., arXiv:2205.14135). Everything here is plain JAX, so the backward pass can itself
be differentiated.

Leading axes are free: one stack is the `g` query heads that read one key head, or many of those at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attend_jax import dropout
from attend_jax.problem import Problem


class Stack(NamedTuple):
    """What stacks of heads need; `row` and `column` are places in the whole, which dropout goes by.

    `words` is the generator's key of each head (`dropout.head_key`). `bias`, `mask` and `kept` (the caller's dropout
    mask) have axes of 1 where they broadcast. The query is scaled already where `scale` is None. `limit` is the last
    column that a row may attend, None where that is all of them.
    """

    query: Float[Array, "... g i d"]
    key: Float[Array, "... j d"]
    value: Float[Array, "... j e"]
    bias: jax.Array | None  # ... g i j
    mask: jax.Array | None  # ... g i j
    kept: jax.Array | None  # ... g i j
    words: tuple[jax.Array, jax.Array] | None  # ... g
    scale: Any
    row: jax.Array  # i
    column: jax.Array  # j
    limit: jax.Array | None = None  # i


class Rows(NamedTuple):
    """What the backward pass needs of the forward one, for the same rows."""

    logsumexp: Float[Array, "... g i"]
    cotangent: Float[Array, "... g i e"]
    delta: Float[Array, "... g i"]  # rowsum(output * cotangent) less the log-sum-exp's own cotangent


class Gradients(NamedTuple):
    """`key` and `value` have their axes swapped: that product needs no transpose of the weights, the large operand."""

    query: Float[Array, "... g i d"]
    key: Float[Array, "... d j"]
    value: Float[Array, "... e j"]
    bias: jax.Array | None


def cut(stack: Stack, start: Any, rows: int, columns: int) -> Stack:
    """`rows` rows from `start` (which may be traced) and the first `columns` keys."""
    query_row, key_row = stack.query.ndim - 2, stack.key.ndim - 2

    def tile(array: jax.Array | None) -> jax.Array | None:
        if array is None:
            return None
        if array.shape[-2] != 1:
            array = take(array, start, rows, query_row)
        return array if array.shape[-1] == 1 else array[..., :columns]

    return stack._replace(
        query=take(stack.query, start, rows, query_row),
        key=take(stack.key, 0, columns, key_row),
        value=take(stack.value, 0, columns, key_row),
        bias=tile(stack.bias),
        mask=tile(stack.mask),
        kept=tile(stack.kept),
        row=take(stack.row, start, rows, 0),
        column=stack.column[:columns],
        limit=None if stack.limit is None else take(stack.limit, start, rows, 0),
    )


def take(array: jax.Array, start: Any, size: int, axis: int) -> jax.Array:
    if isinstance(start, int):
        return jax.lax.slice_in_dim(array, start, start + size, axis=axis)
    return jax.lax.dynamic_slice_in_dim(array, start, size, axis)


def zeros(shape: tuple[Any, ...], dtype: Any, like: jax.Array) -> jax.Array:
    """To add up in, in a loop: inside `jax.shard_map` they vary over the mesh axes that `like` varies over."""
    return jnp.zeros_like(like, shape=shape, dtype=dtype)


def forward(problem: Problem, stack: Stack) -> tuple[Float[Array, "... g i e"], Float[Array, "... g i"]]:
    """The output and log-sum-exp of these rows over these keys, both in the scores' dtype.

    A row that may attend none of them gets their mean (S4) and a log-sum-exp of -inf.
    """
    scores, keep = _scores(problem, stack)
    filled = scores
    if keep is not None:
        filled = jnp.where(keep, scores, float(jnp.finfo(problem.dtype).min))
    highest = jax.lax.stop_gradient(jnp.max(filled, axis=-1, keepdims=True))
    weights = jnp.exp(filled - highest)
    total = jnp.sum(weights, axis=-1)
    logsumexp = highest[..., 0] + jnp.log(total)
    if keep is not None:
        logsumexp = jnp.where(jnp.any(keep, axis=-1), logsumexp, -jnp.inf)
    if problem.dropout is not None:
        weights = weights * _factor(problem, stack)
    output = _dot("...gij,...je->...gie", weights.astype(problem.dtype), stack.value, problem)
    return output / total[..., None], logsumexp


def backward(problem: Problem, stack: Stack, rows: Rows, uniform: float) -> Gradients:
    """The gradients of these rows over these keys, by the chain rule; `uniform` is the weight of each key in a row that
    may attend nothing, 0 where there is no such row."""
    scores, keep = _scores(problem, stack)
    # Minus infinity here and not the fill, and plus infinity for an empty row: the exponential is 0 then, and so are
    # all of its derivatives.
    if keep is not None:
        scores = jnp.where(keep, scores, -jnp.inf)
    empty = (rows.logsumexp == -jnp.inf)[..., None]
    weights = jnp.exp(scores - jnp.where(empty, jnp.inf, rows.logsumexp[..., None]))
    dweights = _dot("...gie,...je->...gij", rows.cotangent, stack.value, problem)
    dropped = jnp.where(empty, uniform, weights) if uniform else weights
    if problem.dropout is not None:
        factor = _factor(problem, stack)
        dropped, dweights = dropped * factor, dweights * factor
    dscores = weights * (dweights - rows.delta[..., None])
    narrow = dscores.astype(problem.dtype)
    return Gradients(
        query=_dot("...gij,...jd->...gid", narrow, stack.key, problem),
        key=_dot("...gid,...gij->...dj", stack.query, narrow, problem),
        value=_dot("...gie,...gij->...ej", rows.cotangent, dropped.astype(problem.dtype), problem),
        bias=None if stack.bias is None else reduced_to(dscores, stack.bias.shape),
    )


def reduced_to(array: jax.Array, shape: tuple[Any, ...]) -> jax.Array:
    """Summed over the axes where `shape` has 1."""
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
    return jnp.sum(array, axis=axes, keepdims=True) if axes else array


def _scores(problem: Problem, stack: Stack) -> tuple[jax.Array, jax.Array | None]:
    """Scaled scores with the bias (S1, S2), and who may attend whom (S3, S12), None for everybody."""
    scores = _dot("...gid,...jd->...gij", stack.query, stack.key, problem)
    if stack.scale is not None:
        scores = scores * stack.scale
    if stack.bias is not None:
        scores = scores + stack.bias.astype(scores.dtype)
    if stack.limit is None:
        return scores, stack.mask
    causal = stack.column <= stack.limit[:, None]
    return scores, causal if stack.mask is None else causal & stack.mask


def _factor(problem: Problem, stack: Stack) -> jax.Array:
    kept = stack.kept
    if stack.words is not None:
        words = tuple(word[..., None, None] for word in stack.words)
        row, column = stack.row.astype(jnp.uint32), stack.column.astype(jnp.uint32)
        kept = dropout.kept((words[0], words[1]), problem.dropout_rate, row[:, None], column)
    assert kept is not None
    return dropout.factor(kept, problem.dropout_rate, problem.scores_dtype)


def _dot(subscripts: str, left: jax.Array, right: jax.Array, problem: Problem) -> jax.Array:
    if problem.platform == "cpu":  # XLA:CPU lacks some products of 16-bit operands (jax 0.10.2); these are exact
        left, right = left.astype(problem.scores_dtype), right.astype(problem.scores_dtype)
    return jnp.einsum(subscripts, left, right, precision=problem.precision, preferred_element_type=problem.scores_dtype)
