"""From a problem to the kernels and back: the function with its gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax import dropout, masks
from attend_jax.implementations.triton import backward, forward, plan, small, tiles
from attend_jax.implementations.triton.dbias import dbias as dbias_of_tiles
from attend_jax.implementations.triton.plan import Plan
from attend_jax.implementations.triton.tiles import Inputs, Saved
from attend_jax.problem import Operands, Problem, Result


def run(problem: Problem, operands: Operands) -> Result:
    static = plan.of(problem)
    words = empty = some_empty = None
    if problem.dropout == "rng":
        words = jnp.stack(dropout.words(problem, operands))
    if problem.mask_shape is not None and problem.causal is not None:
        allowed = masks.allowed(problem, operands.mask)
        assert allowed is not None
        empty = ~jnp.any(allowed, axis=3, keepdims=True)
        some_empty = jnp.any(empty, axis=2, keepdims=True)
    scale = operands.scale
    inputs = Inputs(
        query=operands.query,
        key=operands.key,
        value=operands.value,
        bias=operands.bias,
        mask=operands.mask,
        scale=None if scale is None else scale.astype(jnp.float32).reshape(1),
        words=words,
        dropout_mask=operands.dropout_mask,
        empty=empty,
        some_empty=some_empty,
    )
    output, logsumexp = _attention(static, inputs)
    return Result(output, logsumexp if problem.return_logsumexp else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: Plan, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    output, logsumexp = forward.forward(static, tiles.parted_inputs(static, inputs))
    return output, _natural(logsumexp)


def _natural(logsumexp: jax.Array) -> jax.Array:
    """As the caller knows it (S15): -inf for a row with no key."""
    return jnp.where(logsumexp == jnp.inf, -jnp.inf, logsumexp * math.log(2))


def _attention_fwd(static: Plan, inputs: Inputs) -> Any:
    output, logsumexp = forward.forward(static, tiles.parted_inputs(static, inputs))
    return (output, _natural(logsumexp)), (inputs, output, logsumexp)


def _attention_bwd(static: Plan, residuals: Any, cotangents: Any) -> tuple[Inputs]:
    whole, output, logsumexp = residuals
    cotangent, dlogsumexp = cotangents
    # Not kept since the forward pass: half as much again as the arrays themselves, and soon made.
    inputs, parts = tiles.parted_inputs(static, whole), tiles.parted(static, cotangent)
    if small.fits(static):
        # Where nobody sees the log-sum-exp its cotangent is zeros: a launch to make them, as long as the kernel itself.
        saved = Saved(parts, logsumexp, -dlogsumexp if static.problem.return_logsumexp else None)
        dquery, dkey, dvalue, dbias = small.small(static, inputs, saved)
    else:
        saved = Saved(parts, logsumexp, _delta(static, output, cotangent) - dlogsumexp)
        dkey, dvalue, beside, column_sums = backward.dkv(static, inputs, saved)
        dquery, row_sums = backward.dq(static, inputs, saved) if beside is None else (beside, None)
        dbias = _dbias(static, inputs, saved, row_sums, column_sums)
    dscale = None
    if inputs.scale is not None:
        dscale = jnp.sum(whole.query.astype(jnp.float32) * dquery).reshape(1)
        dquery = (dquery * inputs.scale).astype(whole.query.dtype)
    return (Inputs(dquery, dkey, dvalue, bias=dbias, scale=dscale),)


def _delta(static: Plan, output: jax.Array, cotangent: jax.Array) -> jax.Array:
    """rowsum(output * cotangent) as (b h i)."""
    delta = jnp.sum(output.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=3)
    return delta.swapaxes(1, 2) if static.problem.layout == "bnhd" else delta


def _dbias(
    static: Plan, inputs: Inputs, saved: Saved, row_sums: jax.Array | None, column_sums: jax.Array | None
) -> jax.Array | None:
    """From a kernel of its own, or, where a length is broadcast, from the sums that another kernel made."""
    if static.dbias is None:
        return None
    if static.dbias == "tiles":
        return dbias_of_tiles(static, inputs, saved)
    per_head, axis = (row_sums, 3) if static.dbias == "rows" else (column_sums, 2)
    assert per_head is not None
    sums = jnp.expand_dims(per_head, axis)
    shared = [axis for axis in range(4) if inputs.bias.shape[axis] == 1]
    return jnp.sum(sums, axis=shared, keepdims=True).astype(inputs.bias.dtype)


_attention.defvjp(_attention_fwd, _attention_bwd)
