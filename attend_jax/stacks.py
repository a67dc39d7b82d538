"""From the arrays of a call to stacks of heads, and back: what `implementations/blockwise.py` and `ring.py` share.

A stack is the query heads that read one key head; heads are (k g), k key heads with g query heads each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from attend_jax import dropout
from attend_jax.problem import Operands, Problem, Result, scaled


class Inputs(NamedTuple):
    """What is differentiated; the bias has axes of 1 where it broadcasts."""

    query: jax.Array  # b h i d
    key: jax.Array  # b k j d
    value: jax.Array  # b k j e
    bias: jax.Array | None  # b h i j
    scale: jax.Array | None


class Fixed(NamedTuple):
    """What is not; axes of 1 as in a bias."""

    mask: jax.Array | None  # b h i j
    kept: jax.Array | None  # b h i j
    words: dropout.Words | None  # b h


def run(problem: Problem, operands: Operands, attention: Callable[[Inputs, Fixed], Any]) -> Result:
    """`attention`, a custom_vjp that gives output (b h i e) and log-sum-exp (b h i), on the arrays of a call."""
    if 0 in problem.scores_shape:
        nothing = jnp.full(problem.scores_shape[:3], -jnp.inf, problem.scores_dtype)
        return Result(jnp.zeros(problem.output_shape, problem.dtype), nothing if problem.return_logsumexp else None)
    query, key, value = operands.query, operands.key, operands.value
    if problem.layout == "bnhd":
        query, key, value = (rearrange(x, "b n h d -> b h n d") for x in (query, key, value))
    words = None
    if operands.dropout_rng is not None:
        words = dropout.words(problem, operands)
    inputs = Inputs(query, key, value, operands.bias, operands.scale)
    fixed = Fixed(operands.mask, operands.dropout_mask, words)
    with reverse_mode_only():
        output, logsumexp = attention(inputs, fixed)  # no forward mode (jvp, jacfwd): use implementation="einsum"
    if problem.layout == "bnhd":
        output = rearrange(output, "b h n e -> b n h e")
    return Result(output, logsumexp if problem.return_logsumexp else None)


@contextlib.contextmanager
def reverse_mode_only() -> Iterator[None]:
    """A way out for those who come in forward mode.

    Under jit, and when what jax.linearize gave is called, JAX raises its own error; its traceback shows where.
    """
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "implementation='blockwise', which 'auto' takes for long keys, has no forward mode (jax.jvp, "
            "jax.jacfwd); implementation='einsum' has. Reverse mode and forward over reverse (jax.hessian, jvp of "
            "grad) work here."
        ) from None


def split(problem: Problem, array: jax.Array) -> jax.Array:
    """(b h ...) -> (b k g ...): key heads, and the query heads that read each; (b 1 1 ...) of what broadcasts."""
    return rearrange(array, "b (k g) ... -> b k g ...", k=1 if array.shape[1] == 1 else problem.kv_heads)


def join(array: jax.Array) -> jax.Array:
    """The inverse of `split`."""
    return rearrange(array, "b k g ... -> b (k g) ...")


def scale_of(problem: Problem, inputs: Inputs) -> Any:
    return problem.scale if inputs.scale is None else inputs.scale


def delta(output: jax.Array, cotangent: jax.Array, logsumexp: jax.Array, dlogsumexp: jax.Array) -> jax.Array:
    """`blocks.Rows.delta`; a row that may attend nothing passes no gradient to its log-sum-exp."""
    summed = jnp.sum(output.astype(logsumexp.dtype) * cotangent, axis=-1)
    return summed - jnp.where(logsumexp == -jnp.inf, 0.0, dlogsumexp)


def gradients(
    problem: Problem, inputs: Inputs, dquery: jax.Array, dkey: jax.Array, dvalue: jax.Array, dbias: jax.Array | None
) -> Inputs:
    """Sums over all blocks -> the gradients of the inputs: query's before its scale, key's and value's (b k d j)."""
    scale, dscale = scale_of(problem, inputs), None
    if inputs.scale is not None:
        dscale = jnp.sum(dquery * inputs.query).astype(inputs.scale.dtype)
    _, remaining = scaled(inputs.query, scale, problem)
    dkey = jnp.swapaxes(dkey, -1, -2) * (1.0 if remaining is None else remaining)
    return Inputs(
        (dquery * jnp.asarray(scale, dquery.dtype)).astype(problem.dtype),
        dkey.astype(problem.dtype),
        jnp.swapaxes(dvalue, -1, -2).astype(problem.dtype),
        None if inputs.bias is None or dbias is None else dbias.astype(inputs.bias.dtype),
        dscale,
    )
