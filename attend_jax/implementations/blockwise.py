"""Exact attention in memory linear in the length, forward and backward, on any device, in plain JAX.

    run        operands -> stacks: the query heads that read one key head, with their part of bias and mask
    _attend    custom_vjp over all stacks: keeps the output and one log-sum-exp a row

One stack (or all at once) goes block by block of rows through `attend_jax.sweep`; the mathematics of a block is in
`attend_jax.blocks`. Because the backward pass is plain JAX, second derivatives and Hessian-vector products work; direct
forward mode does not (JAX has none for a custom_vjp): `implementation="einsum"`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax import blocks, masks, stacks, sweep
from attend_jax.problem import Operands, Problem, Result, partitioned, scaled
from attend_jax.stacks import Fixed, Inputs
from attend_jax.sweep import Piece


@dataclasses.dataclass(frozen=True)
class Order:
    """In which order the work is done. `stacks`: how many a step of the loop takes, None for all without a loop.

    Several in one step are independent of each other, so that XLA:CPU, which runs small products on one thread, runs
    several at once.
    """

    rows: int
    stacks: int | None


def order(problem: Problem) -> Order:
    """Measured with `parity bench`; docs/performance.md has the figures."""
    if problem.platform == "cpu" and not partitioned() and problem.kv_len > 128:
        # A head at a time: its scores stay in the cache. Products are large enough for all threads from 1 MiB of scores
        # on; smaller ones run one a thread. A causal corner wastes half a block a row of blocks.
        rows = 256 if problem.causal is not None else 1024 if problem.kv_len <= 1024 else 512
        return Order(rows, stacks=8 if problem.kv_len <= 512 else 1)
    # All heads at once: enough work for a GPU, and no loop over an axis that may be sharded.
    return Order(rows=512 if problem.kv_len <= 8192 else 256, stacks=None)


def refusal(problem: Problem) -> str | None:
    """Blockwise does everything."""
    del problem
    return None


def run(problem: Problem, operands: Operands) -> Result:
    return stacks.run(problem, operands, functools.partial(_attend, problem))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(problem: Problem, inputs: Inputs, fixed: Fixed) -> tuple[jax.Array, jax.Array]:
    return _attend_fwd(problem, inputs, fixed)[0]


def _attend_fwd(problem: Problem, inputs: Inputs, fixed: Fixed) -> tuple[tuple[jax.Array, jax.Array], Any]:
    def stack(_: None, index: Any) -> tuple[None, Any]:
        return None, sweep.forward(problem, _piece(problem), _stack(problem, inputs, fixed, index))

    _, (output, logsumexp) = _over_stacks(problem, stack, None)
    output, logsumexp = stacks.join(output).astype(problem.dtype), stacks.join(logsumexp)
    return (output, logsumexp), (inputs, fixed, output, logsumexp)


def _attend_bwd(problem: Problem, residuals: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Inputs, None]:
    inputs, fixed, output, logsumexp = residuals
    cotangent, dlogsumexp = cotangents
    delta = stacks.delta(output, cotangent, logsumexp, dlogsumexp)
    rows = blocks.Rows(logsumexp, cotangent, delta)
    bias = inputs.bias

    def stack(dbias: jax.Array | None, index: Any) -> tuple[jax.Array | None, Any]:
        taken = _stack(problem, inputs, fixed, index)
        part = blocks.Rows(*(_heads(problem, x, index) for x in rows))
        gradients = sweep.backward(problem, _piece(problem), taken, part, 1 / problem.kv_len)
        if dbias is not None and gradients.bias is not None:
            dbias = _add_at(problem, dbias, index, gradients.bias)
        return dbias, gradients[:3]

    start = None if bias is None else blocks.zeros(bias.shape, problem.scores_dtype, inputs.query)
    dbias, (dquery, dkey, dvalue) = _over_stacks(problem, stack, start)
    return stacks.gradients(problem, inputs, stacks.join(dquery), dkey, dvalue, dbias), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _stack(problem: Problem, inputs: Inputs, fixed: Fixed, index: Any) -> blocks.Stack:
    at = functools.partial(jax.tree.map, lambda x: _heads(problem, x, index))
    query, scale = scaled(at(inputs.query), stacks.scale_of(problem, inputs), problem)
    row = jnp.arange(problem.q_len, dtype=jnp.int32)
    return blocks.Stack(
        query=query,
        key=_key_head(inputs.key, index),
        value=_key_head(inputs.value, index),
        bias=at(inputs.bias),
        mask=at(fixed.mask),
        kept=at(fixed.kept),
        words=at(fixed.words),
        scale=scale,
        row=row,
        column=jnp.arange(problem.kv_len, dtype=jnp.int32),
        limit=None if problem.causal is None else row + masks.offset(problem),
    )


def _piece(problem: Problem) -> Piece:
    """All rows and columns; the blocks beyond the causal corner are left out where nothing is needed of them."""
    offset = None if problem.causal is None else masks.offset(problem)
    masked = problem.mask_shape is not None
    return Piece(
        rows=problem.q_len,
        columns=problem.kv_len,
        block=order(problem).rows,
        # A masked row that may attend nothing attends every key (S4); which of them are dropped must then be known.
        offset=None if masked and problem.dropout is not None else offset,
        may_be_empty=masked or (offset is not None and offset < 0),
    )


def _over_stacks(problem: Problem, stack: Callable[..., Any], carry: Any) -> tuple[Any, Any]:
    """stack(carry, index) -> (carry, results) over (b k); the results get these two axes in front."""
    several = order(problem).stacks
    if several is None:
        return stack(carry, None)
    size = problem.batch * problem.kv_heads
    within = size if isinstance(size, int) else problem.kv_heads  # a symbolic batch (jax.export)
    several = max(n for n in range(1, several + 1) if within % n == 0)

    def step(carry: Any, first: jax.Array) -> tuple[Any, Any]:
        results = []
        for index in range(several):
            carry, result = stack(carry, jnp.divmod(first + index, problem.kv_heads))
            results.append(result)
        return carry, jax.tree.map(lambda *x: jnp.stack(x), *results)

    carry, results = jax.lax.scan(step, carry, jnp.arange(size // several) * several)
    return carry, jax.tree.map(lambda x: x.reshape(problem.batch, problem.kv_heads, *x.shape[2:]), results)


def _heads(problem: Problem, array: jax.Array, index: Any) -> jax.Array:
    """(b h ...) -> the query heads of one stack, (g ...), or of all, (b k g ...)."""
    if index is None:
        return stacks.split(problem, array)
    batch, head = index
    size = min(problem.heads // problem.kv_heads, array.shape[1])  # 1 where it broadcasts
    array = blocks.take(array, 0 if array.shape[0] == 1 else batch, 1, 0)
    # Of the whole array and not of one split in (k g), which XLA:CPU copies on its way into the loop (jax 0.10.2).
    return blocks.take(array, 0 if array.shape[1] == 1 else head * size, size, 1)[0]


def _key_head(array: jax.Array, index: Any) -> jax.Array:
    if index is None:
        return array
    return blocks.take(blocks.take(array, index[0], 1, 0), index[1], 1, 1)[0, 0]


def _add_at(problem: Problem, total: jax.Array, index: Any, part: jax.Array) -> jax.Array:
    """`part` belongs where `_heads` takes from."""
    if index is None:
        shape = jax.eval_shape(lambda: stacks.split(problem, total)).shape
        return total + stacks.join(blocks.reduced_to(part, shape))
    batch, head = (0 if size == 1 else place for place, size in zip(index, total.shape[:2], strict=True))
    first = (batch, head * part.shape[0], 0, 0)
    old = jax.lax.dynamic_slice(total, first, (1, *part.shape))
    return jax.lax.dynamic_update_slice(total, old + part, first)
