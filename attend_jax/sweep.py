"""Down the rows of a piece of the scores, block by block, so that only one block of them is in memory at a time.

A piece is some queries against some keys: all of both in `implementations/blockwise.py`, what one device holds against
what it has been sent in `ring.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax import blocks
from attend_jax.problem import Problem

# Under a causal corner so many stretches of rows are written out, each against its own prefix of the keys; a stretch of
# several blocks is a loop. More would save some products beyond the diagonal, but XLA:CPU runs what is written out with
# the scores of all blocks in memory (jax 0.10.2): at (1, 8, 4096, 64) 16 take 104 MiB and 8 take 27, a tenth slower.
_STRETCHES = 8


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is static of a piece of `rows` by `columns`, done `block` rows at a time.

    offset: no row r of the piece may attend one of its keys beyond r + offset, so these are not computed; None where
      every key is.
    may_be_empty: whether there can be a row that may attend no key at all, here or elsewhere.
    """

    rows: int
    columns: int
    block: int
    offset: int | None = None
    may_be_empty: bool = False


def forward(problem: Problem, piece: Piece, stack: blocks.Stack) -> tuple[jax.Array, jax.Array]:
    """The output and log-sum-exp of the piece by itself, in the scores' dtype."""

    def block(_: None, start: Any, rows: int, columns: int) -> tuple[None, Any]:
        output, logsumexp = blocks.forward(problem, blocks.cut(stack, start, rows, columns))
        if columns < piece.columns and piece.may_be_empty:
            mean = jnp.mean(stack.value, axis=-2, dtype=output.dtype)[..., None, None, :]
            output = jnp.where((logsumexp == -jnp.inf)[..., None], mean, output)
        return None, (output, logsumexp)

    return _over_rows(piece, block, None, stack.query.ndim - 2)[1]


def backward(
    problem: Problem, piece: Piece, stack: blocks.Stack, saved: blocks.Rows, uniform: float
) -> blocks.Gradients:
    """The piece's part of all gradients, given the log-sum-exp of whole rows; `uniform` is the weight of each key in a
    row that may attend nothing."""
    axis = stack.query.ndim - 2
    bias = stack.bias
    uniform = uniform if piece.may_be_empty else 0.0

    def block(sums: Any, start: Any, rows: int, columns: int) -> tuple[Any, Any]:
        taken = blocks.Rows(*(blocks.take(x, start, rows, axis) for x in saved))
        whole = columns == piece.columns
        part = blocks.backward(problem, blocks.cut(stack, start, rows, columns), taken, uniform if whole else 0.0)
        dkey, dvalue, dbias = sums
        dkey, dvalue = (_add_columns(a, b) for a, b in ((dkey, part.key), (dvalue, part.value)))
        if not whole and uniform:  # they attend the keys past the diagonal, too (S4)
            empty = jnp.where((taken.logsumexp == -jnp.inf)[..., None], taken.cotangent, 0)
            dvalue += jnp.sum(empty, axis=(-3, -2), dtype=dvalue.dtype)[..., :, None] * uniform
        if bias is None or part.bias is None:
            return (dkey, dvalue, dbias), (part.query, None)
        if bias.shape[-2] == 1:
            return (dkey, dvalue, _add_columns(dbias, part.bias)), (part.query, None)
        missing = bias.shape[-1] - part.bias.shape[-1]
        return (dkey, dvalue, dbias), (part.query, _pad_columns(part.bias, missing))

    def zeros(like: jax.Array) -> jax.Array:
        return blocks.zeros(like.shape, problem.scores_dtype, stack.query)

    summed = None if bias is None or bias.shape[-2] != 1 else zeros(bias)
    start = (zeros(jnp.swapaxes(stack.key, -1, -2)), zeros(jnp.swapaxes(stack.value, -1, -2)), summed)
    (dkey, dvalue, dbias), (dquery, dbias_rows) = _over_rows(piece, block, start, axis)
    return blocks.Gradients(dquery, dkey, dvalue, dbias_rows if dbias is None else dbias)


def _over_rows(piece: Piece, block: Callable[..., Any], carry: Any, axis: int) -> tuple[Any, Any]:
    """block(carry, start, rows, columns) -> (carry, results) down the query; the results' rows are on `axis`."""
    parts = []
    for start, stop, rows, columns in stretches(piece):
        if stop - start == rows:
            carry, part = block(carry, start, rows, columns)
        else:
            step = functools.partial(block, rows=rows, columns=columns)
            carry, part = jax.lax.scan(step, carry, jnp.arange(start, stop, rows))
            part = jax.tree.map(lambda x: _merge(x, axis), part)
        parts.append(part)
    return carry, jax.tree.map(lambda *x: jnp.concatenate(x, axis) if len(x) > 1 else x[0], *parts)


def stretches(piece: Piece) -> Sequence[tuple[int, int, int, int]]:
    """(start, stop, rows of a block, keys of each of its blocks): the rows, and no key that none of them may attend."""
    length, block = piece.rows, piece.block
    blocks_a_stretch = length // block if piece.offset is None else -(-length // (block * _STRETCHES))
    found = []
    start = 0
    while start < length:
        left = (length - start) // block
        stop = start + block * min(left, blocks_a_stretch) if left else length
        found.append((start, stop, min(block, stop - start), _columns(piece, start, stop)))
        start = stop
    return found


def _columns(piece: Piece, start: int, stop: int) -> int:
    if piece.offset is None or start + piece.offset < 0:
        return piece.columns  # a row that may attend nothing attends every key (S4), past the diagonal too
    return min(stop + piece.offset, piece.columns)


def _add_columns(total: jax.Array, part: jax.Array) -> jax.Array:
    if total.shape[-1] == part.shape[-1]:
        return total + part
    return total.at[..., : part.shape[-1]].add(part)


def _pad_columns(array: jax.Array, missing: int) -> jax.Array:
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array


def _merge(array: jax.Array, axis: int) -> jax.Array:
    """The looped blocks' axis, which is the first, joined with the rows'."""
    array = jnp.moveaxis(array, 0, axis)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])
