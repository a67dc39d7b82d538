"""Exact attention in memory linear in the length, forward and backward, on any device, in plain JAX.

    run        operands -> stacks: the query heads that read one key head, with their part of bias and mask
    _attend    custom_vjp over all stacks: keeps the output and one log-sum-exp a row
    _forward   one stack (or all at once): blocks of rows against the keys they may attend
    _backward  the same blocks again, gradients added up as they come

The mathematics of one block is in `attend_jax.blocks`. Because the backward pass is plain JAX, second derivatives and
Hessian-vector products work; direct forward mode does not (JAX has none for a custom_vjp): `implementation="einsum"`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from attend_jax import blocks, dropout
from attend_jax.problem import Operands, Problem, Result, scaled


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
    if problem.platform == "cpu" and jax.device_count() == 1 and problem.kv_len > 128:
        # A head at a time: its scores stay in the cache. Long rows make products large enough for all threads.
        return Order(rows=256, stacks=8 if problem.kv_len <= 512 else 1)
    # All heads at once: enough work for a GPU, and no loop over an axis that may be sharded.
    return Order(rows=512 if problem.kv_len <= 8192 else 256, stacks=None)


_UNROLLED = 16  # blocks of rows written out, each against its own prefix of the keys; beyond it a loop


def refusal(problem: Problem) -> str | None:
    """Blockwise does everything."""
    del problem
    return None


class _Inputs(NamedTuple):
    """What is differentiated, with heads split into (k g): five axes, each 1 where bias and mask broadcast."""

    query: jax.Array  # b k g i d
    key: jax.Array  # b k j d
    value: jax.Array  # b k j e
    bias: jax.Array | None  # b k g i j
    scale: jax.Array | None


class _Fixed(NamedTuple):
    """What is not."""

    mask: jax.Array | None  # b k g i j
    kept: jax.Array | None  # b k g i j
    words: tuple[jax.Array, jax.Array] | None  # b k g


def run(problem: Problem, operands: Operands) -> Result:
    if 0 in problem.scores_shape:
        nothing = jnp.full(problem.scores_shape[:3], -jnp.inf, problem.scores_dtype)
        return Result(jnp.zeros(problem.output_shape, problem.dtype), nothing if problem.return_logsumexp else None)
    query, key, value = operands.query, operands.key, operands.value
    if problem.layout == "bnhd":
        query, key, value = (rearrange(x, "b n h d -> b h n d") for x in (query, key, value))
    words = None
    if operands.dropout_rng is not None:
        batch, head = (jnp.arange(size, dtype=jnp.uint32) for size in problem.scores_shape[:2])
        words = dropout.head_key(operands.dropout_rng, batch[:, None], head)
        words = tuple(_split(jnp.broadcast_to(word, problem.scores_shape[:2]), problem) for word in words)
    inputs = _Inputs(_split(query, problem), key, value, _split(operands.bias, problem), operands.scale)
    fixed = _Fixed(_split(operands.mask, problem), _split(operands.dropout_mask, problem), words)
    output, logsumexp = _reverse_mode_only(problem, inputs, fixed)
    output = rearrange(output, f"b k g i e -> {'b (k g) i e' if problem.layout == 'bhnd' else 'b i (k g) e'}")
    return Result(output, rearrange(logsumexp, "b k g i -> b (k g) i") if problem.return_logsumexp else None)


def _split(array: Any, problem: Problem) -> Any:
    """The head axis as (k g): key heads, and the query heads that read each."""
    if array is None:
        return None
    return rearrange(array, "b (k g) ... -> b k g ...", k=1 if array.shape[1] == 1 else problem.kv_heads)


def _reverse_mode_only(problem: Problem, inputs: _Inputs, fixed: _Fixed) -> tuple[jax.Array, jax.Array]:
    """`_attend`, with a way out for those who come in forward mode.

    Under jit JAX raises its error later, when the program is lowered; its traceback then shows the line of the call.
    """
    try:
        return _attend(problem, inputs, fixed)  # no forward mode (jvp, jacfwd): use implementation="einsum"
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "implementation='blockwise', which 'auto' takes for long keys, has no forward mode (jax.jvp, jax.jacfwd, "
            "jax.linearize); implementation='einsum' has. Reverse mode and forward over reverse (jax.hessian, jvp of "
            "grad) work here."
        ) from None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(problem: Problem, inputs: _Inputs, fixed: _Fixed) -> tuple[jax.Array, jax.Array]:
    return _attend_fwd(problem, inputs, fixed)[0]


def _attend_fwd(problem: Problem, inputs: _Inputs, fixed: _Fixed) -> tuple[tuple[jax.Array, jax.Array], Any]:
    def stack(_: None, index: Any) -> tuple[None, Any]:
        return None, _forward(problem, _stack(problem, inputs, fixed, index))

    _, (output, logsumexp) = _over_stacks(problem, stack, None)
    output = output.astype(problem.dtype)
    return (output, logsumexp), (inputs, fixed, output, logsumexp)


def _attend_bwd(problem: Problem, residuals: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[_Inputs, None]:
    inputs, fixed, output, logsumexp = residuals
    cotangent, dlogsumexp = cotangents
    delta = jnp.sum(output.astype(logsumexp.dtype) * cotangent, axis=-1) - jnp.where(
        logsumexp == -jnp.inf, 0.0, dlogsumexp
    )
    rows = blocks.Rows(logsumexp, cotangent, delta)
    bias = inputs.bias

    def stack(dbias: jax.Array | None, index: Any) -> tuple[jax.Array | None, Any]:
        taken = _stack(problem, inputs, fixed, index)
        gradients = _backward(problem, taken, blocks.Rows(*(_at(x, index) for x in rows)))
        if dbias is not None and gradients.bias is not None:
            dbias = _add_at(dbias, index, gradients.bias)
        return dbias, gradients[:3]

    start = None if bias is None else jnp.zeros(bias.shape, problem.scores_dtype)
    dbias, (dquery, dkey, dvalue) = _over_stacks(problem, stack, start)
    scale = _scale(problem, inputs)
    dscale = None
    if inputs.scale is not None:
        dscale = jnp.sum(dquery * inputs.query).astype(inputs.scale.dtype)
    _, remaining = scaled(inputs.query, scale, problem)
    dkey = jnp.swapaxes(dkey, -1, -2) * (1.0 if remaining is None else remaining)
    return _Inputs(
        (dquery * jnp.asarray(scale, dquery.dtype)).astype(problem.dtype),
        dkey.astype(problem.dtype),
        jnp.swapaxes(dvalue, -1, -2).astype(problem.dtype),
        None if bias is None or dbias is None else dbias.astype(bias.dtype),
        dscale,
    ), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _scale(problem: Problem, inputs: _Inputs) -> Any:
    return problem.scale if inputs.scale is None else inputs.scale


def _stack(problem: Problem, inputs: _Inputs, fixed: _Fixed, index: Any) -> blocks.Stack:
    at = functools.partial(jax.tree.map, lambda x: _at(x, index))
    query, scale = scaled(_at(inputs.query, index), _scale(problem, inputs), problem)
    return blocks.Stack(
        query=query,
        key=_at(inputs.key, index),
        value=_at(inputs.value, index),
        bias=at(inputs.bias),
        mask=at(fixed.mask),
        kept=at(fixed.kept),
        words=at(fixed.words),
        scale=scale,
        row=jnp.arange(problem.q_len, dtype=jnp.int32),
        column=jnp.arange(problem.kv_len, dtype=jnp.int32),
    )


def _forward(problem: Problem, stack: blocks.Stack) -> tuple[jax.Array, jax.Array]:
    def block(_: None, start: Any, rows: int, columns: int) -> tuple[None, Any]:
        output, logsumexp = blocks.forward(problem, blocks.cut(stack, start, rows, columns))
        if columns < problem.kv_len and blocks.has_empty_rows(problem):
            mean = jnp.mean(stack.value, axis=-2, dtype=output.dtype)[..., None, None, :]
            output = jnp.where((logsumexp == -jnp.inf)[..., None], mean, output)
        return None, (output, logsumexp)

    return _over_rows(problem, block, None, stack.query.ndim - 2)[1]


def _backward(problem: Problem, stack: blocks.Stack, rows: blocks.Rows) -> blocks.Gradients:
    axis = stack.query.ndim - 2
    bias = stack.bias

    def block(sums: Any, start: Any, size: int, columns: int) -> tuple[Any, Any]:
        taken = blocks.Rows(*(blocks.take(x, start, size, axis) for x in rows))
        whole = columns == problem.kv_len
        part = blocks.backward(
            problem, blocks.cut(stack, start, size, columns), taken, 1 / problem.kv_len if whole else 0.0
        )
        dkey, dvalue, dbias = sums
        dkey, dvalue = (_add_columns(a, b) for a, b in ((dkey, part.key), (dvalue, part.value)))
        if not whole and blocks.has_empty_rows(problem):  # they attend the keys past the diagonal, too (S4)
            empty = jnp.where((taken.logsumexp == -jnp.inf)[..., None], taken.cotangent, 0)
            dvalue += jnp.sum(empty, axis=(-3, -2), dtype=dvalue.dtype)[..., :, None] / problem.kv_len
        if bias is None or part.bias is None:
            return (dkey, dvalue, dbias), (part.query, None)
        if bias.shape[-2] == 1:
            return (dkey, dvalue, _add_columns(dbias, part.bias)), (part.query, None)
        missing = bias.shape[-1] - part.bias.shape[-1]
        return (dkey, dvalue, dbias), (part.query, _pad_columns(part.bias, missing))

    dtype = problem.scores_dtype
    key, value = (jnp.zeros_like(jnp.swapaxes(x, -1, -2), dtype=dtype) for x in (stack.key, stack.value))
    summed = None if bias is None or bias.shape[-2] != 1 else jnp.zeros_like(bias, dtype=dtype)
    (dkey, dvalue, dbias), (dquery, dbias_rows) = _over_rows(problem, block, (key, value, summed), axis)
    return blocks.Gradients(dquery, dkey, dvalue, dbias_rows if dbias is None else dbias)


def _over_rows(problem: Problem, block: Callable[..., Any], carry: Any, axis: int) -> tuple[Any, Any]:
    """block(carry, start, rows, columns) -> (carry, results) down the query; the results' rows are on `axis`."""
    parts = []
    for start, stop, rows, columns in stretches(problem, order(problem).rows):
        if stop - start == rows:
            carry, part = block(carry, start, rows, columns)
        else:
            step = functools.partial(block, rows=rows, columns=columns)
            carry, part = jax.lax.scan(step, carry, jnp.arange(start, stop, rows))
            part = jax.tree.map(lambda x: _merge(x, axis), part)
        parts.append(part)
    return carry, jax.tree.map(lambda *x: jnp.concatenate(x, axis) if len(x) > 1 else x[0], *parts)


def stretches(problem: Problem, rows: int) -> Sequence[tuple[int, int, int, int]]:
    """(start, stop, rows of a block, keys of each of its blocks): the rows, and no key that none of them may attend.

    A longer query than `_UNROLLED` blocks is cut into stretches of several blocks each, which are looped over.
    """
    length = problem.q_len
    blocks_a_stretch = -(-length // (rows * _UNROLLED))
    if problem.causal is None and length > rows * _UNROLLED:
        blocks_a_stretch = length // rows
    found = []
    start = 0
    while start < length:
        left = (length - start) // rows
        stop = start + rows * min(left, blocks_a_stretch) if left else length
        found.append((start, stop, min(rows, stop - start), _columns(problem, start, stop)))
        start = stop
    return found


def _columns(problem: Problem, start: int, stop: int) -> int:
    if problem.causal is None:
        return problem.kv_len
    offset = problem.kv_len - problem.q_len if problem.causal == "lower_right" else 0
    if start + offset < 0 or (problem.mask_shape is not None and problem.dropout is not None):
        return problem.kv_len  # a row that may attend nothing attends every key (S4), past the diagonal too
    return min(stop + offset, problem.kv_len)


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


def _at(array: jax.Array, index: Any) -> jax.Array:
    """The part of one stack, or all of it."""
    if index is None:
        return array
    for place, axis in ((index[0], 0), (index[1], 1)):
        place = 0 if array.shape[axis] == 1 else place
        array = jax.lax.dynamic_slice_in_dim(array, place, 1, axis)
    return array[0, 0]


def _add_at(total: jax.Array, index: Any, part: jax.Array) -> jax.Array:
    if index is None:
        return total + blocks.reduced_to(part, total.shape)
    batch, head = (0 if size == 1 else place for place, size in zip(index, total.shape[:2], strict=True))
    return total.at[batch, head].add(part)


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
