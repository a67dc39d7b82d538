"""The whole backward pass in one kernel, for sequences so short that one tile holds all scores of a head.

Query, key, value and cotangent are read once, and the output not at all: with all of a row's weights at hand,
rowsum(output * cotangent) is rowsum(weights * dweights). A program goes through some of the (batch, head) that share a
bias and adds up its gradient on the way. What bounds it is memory: seven arrays instead of nineteen in three kernels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from attend_jax.implementations.triton import tiles
from attend_jax.implementations.triton.backward import weights_and_dscores
from attend_jax.implementations.triton.dbias import Shares, divmod_, write_share
from attend_jax.implementations.triton.plan import Blocks, Plan, padded
from attend_jax.implementations.triton.tiles import Inputs, Saved, Span, Tile

MAX_LENGTH = 64
# A program waits for memory most of the time: several times as many as the GPU runs at once.
_PROGRAMS = 8192


def fits(plan: Plan) -> bool:
    """Whether a tile holds the scores, and each (batch, head) its own key; a bias' gradient is summed over tiles.

    Not with the generator in it: that has not run on a GPU since the generator is a loop, and did not compile before.
    """
    problem = plan.problem
    short = max(problem.q_len, problem.kv_len, problem.head_dim, problem.value_dim) <= MAX_LENGTH
    return short and plan.group == 1 and problem.dropout != "rng" and plan.dbias in (None, "tiles")


def _shares(plan: Plan) -> Shares:
    problem = plan.problem
    own_batch, own_heads, *_ = problem.bias_shape or problem.scores_shape
    return Shares(problem.batch, problem.heads, 1, 1, own_batch, own_heads, _PROGRAMS)


def _blocks(plan: Plan) -> Blocks:
    q, k = padded(plan.problem.q_len), padded(plan.problem.kv_len)
    return Blocks(q, k, max(1, q * k // 1024), 1)


def small(plan: Plan, inputs: Inputs, saved: Saved) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradients of query, key, value and bias; the query's float32 and not yet scaled when the scale is traced.

    `saved.delta` is that of `weights_and_dscores` for whole rows.
    """
    problem, shares = plan.problem, _shares(plan)
    out = [jax.ShapeDtypeStruct(inputs.query.shape[-4:], plan.dquery_dtype)]
    out += [jax.ShapeDtypeStruct(x.shape[-4:], problem.dtype) for x in (inputs.key, inputs.value)]
    if problem.bias_shape is not None:
        out.append(shares.parts(problem))
    grid = (shares.own_batch * shares.own_heads * shares.splits,)
    dquery, dkey, dvalue, *parts = tiles.call(small_kernel, plan, _blocks(plan), grid, (inputs, saved), out)
    return dquery, dkey, dvalue, shares.added_up(parts[0], problem) if parts else None


def small_kernel(
    plan: Plan, inputs: Inputs, saved: Saved, dquery_ref: Any, dkey_ref: Any, dvalue_ref: Any, *dbias_ref: Any
) -> None:
    problem, blocks, shares = plan.problem, _blocks(plan), _shares(plan)
    own, split = divmod_(pl.program_id(0), shares.splits)
    rows, columns = Span(own * 0, blocks.q, problem.q_len), Span(own * 0, blocks.k, problem.kv_len)
    scale = tiles.scale_of(plan, inputs, own)

    def step(index: jax.Array, total: jax.Array) -> jax.Array:
        batch, head = shares.place(own, index)
        query = tiles.read(plan, inputs.query, batch, head, rows)
        key = tiles.read(plan, inputs.key, batch, head, columns)
        value = tiles.read(plan, inputs.value, batch, head, columns)
        cotangent = tiles.read(plan, saved.cotangent, batch, head, rows)
        tile = Tile(batch, head, rows, columns, diagonal=True)
        weights, dscores = weights_and_dscores(
            plan, inputs, saved, tile, (query, key, value, cotangent), scale, whole_rows=True
        )
        rounded = tiles.factor(plan, dscores)
        dquery = tiles.dot(plan, rounded, key)
        dkey = tiles.dot(plan, rounded, query, trans_a=True) * scale
        dvalue = tiles.dot(plan, tiles.factor(plan, weights), cotangent, trans_a=True)
        tiles.write(plan, dquery_ref, batch, head, rows, dquery if problem.scale is None else dquery * scale)
        tiles.write(plan, dkey_ref, batch, head, columns, dkey)
        tiles.write(plan, dvalue_ref, batch, head, columns, dvalue)
        return total + dscores if dbias_ref else total

    if not dbias_ref:
        step(own * 0, own)
        return
    total = lax.fori_loop(*shares.span(split), step, jnp.zeros((blocks.q, blocks.k), jnp.float32))
    write_share(dbias_ref[0], shares, own, split, rows, columns, total)
