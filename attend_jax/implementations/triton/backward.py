"""The backward kernels. Each computes the weights anew from the row's log-sum-exp; none adds to what another writes.

    dq      a program takes a block of queries over the keys that it sees
    dkv     a program takes a block of keys over the queries that see it, of all heads of its group; where these are
            few, it makes their gradient as well, which is then summed over the blocks
    dbias   a program takes a tile of the bias over the batches and heads that share it (dbias.py)
    small   all of them at once, where one tile holds all scores of a head (small.py)

With p the weights, dp = cotangent · valueᵀ (dropped as the weights were) and delta = rowsum(output * cotangent) less
the log-sum-exp's cotangent: dscores = p * (dp - delta), dvalue = pᵀ · cotangent, dquery = scale * dscores · key.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attend_jax.implementations.triton import loops, tiles
from attend_jax.implementations.triton.plan import Plan, padded
from attend_jax.implementations.triton.tiles import Factor, Inputs, Saved, Span, Tile


def weights_and_dscores(
    plan: Plan, inputs: Inputs, saved: Saved, tile: Tile, reads: tuple[Factor, Factor, Factor, Factor], scale: Any,
    *, whole_rows: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The weights of a tile, as they multiply the values, and the gradient to its scores.

    `whole_rows`: the tile has all columns, so that rowsum(output * cotangent) = rowsum(weights * dweights) is at hand
    and `saved.delta` holds the rest of delta only, None where there is none.
    """
    query, key, value, cotangent = reads
    logsumexp = tile.down(tiles.read_rows(saved.logsumexp, tile.batch, tile.head, tile.rows, math.inf))
    delta: Any = 0.0
    if saved.delta is not None:
        delta = tile.down(tiles.read_rows(saved.delta, tile.batch, tile.head, tile.rows, 0.0))
    products, dweights = (
        tiles.dot(plan, b, a, trans_b=True) if tile.transposed else tiles.dot(plan, a, b, trans_b=True)
        for a, b in ((query, key), (cotangent, value))
    )
    weights = tiles.exp2(plan, tiles.scores(plan, inputs, tile, products, scale) - logsumexp)
    keep = tiles.kept(plan, inputs, tile)
    if keep is not None:
        dweights = jnp.where(keep, dweights * plan.kept_factor, 0.0)
    if whole_rows:
        delta = delta + jnp.sum(weights * dweights, axis=1, keepdims=True)
    dscores = weights * (dweights - delta)
    if plan.may_be_empty:  # uniform (S4), while the zeros above pass nothing to the scores
        weights = jnp.where(logsumexp == math.inf, 1 / plan.problem.kv_len, weights)
    if keep is not None:
        weights = jnp.where(keep, weights * plan.kept_factor, 0.0)
    return weights, dscores


def dq(plan: Plan, inputs: Inputs, saved: Saved) -> tuple[jax.Array, jax.Array | None]:
    """The query's gradient, float32 and not yet scaled when the scale is traced; the row sums of dscores (b h i),
    if it is there that the bias' gradient is summed."""
    problem, blocks = plan.problem, plan.blocks("dq")
    grid, _ = tiles.grid(plan, -(-problem.q_len // blocks.q), problem.heads)
    out = [jax.ShapeDtypeStruct(inputs.query.shape[-4:], plan.dquery_dtype)]
    if plan.dbias == "rows":
        out.append(jax.ShapeDtypeStruct(problem.scores_shape[:3], jnp.float32))
    dquery, *sums = tiles.call(dq_kernel, plan, blocks, grid, (inputs, saved), out)
    return dquery, sums[0] if sums else None


def dq_kernel(plan: Plan, inputs: Inputs, saved: Saved, dquery_ref: Any, *sum_refs: Any) -> None:
    problem, blocks = plan.problem, plan.blocks("dq")
    count = -(-problem.q_len // blocks.q)
    block, head, batch = tiles.grid(plan, count, problem.heads)[1]()
    if problem.causal is not None:
        block = count - 1 - block
    rows = Span(block * blocks.q, blocks.q, problem.q_len)
    key_head = tiles.key_head(plan, head)
    query = tiles.read(plan, inputs.query, batch, head, rows)
    cotangent = tiles.read(plan, saved.cotangent, batch, head, rows)
    scale = tiles.scale_of(plan, inputs, batch)

    def body(edge: bool) -> Any:
        def step(index: jax.Array, carry: Any) -> Any:
            columns = Span(index * blocks.k, blocks.k, problem.kv_len)
            tile = Tile(batch, head, rows, columns, diagonal=edge, last=edge)
            key = tiles.read(plan, inputs.key, batch, key_head, columns, full=not edge)
            value = tiles.read(plan, inputs.value, batch, key_head, columns, full=not edge)
            _, dscores = weights_and_dscores(plan, inputs, saved, tile, (query, key, value, cotangent), scale)
            total = carry[0] + tiles.dot(plan, tiles.factor(plan, dscores), key)
            return (total, *(rest + jnp.sum(dscores, axis=1) for rest in carry[1:]))

        return step

    start = jnp.zeros((blocks.q, padded(problem.head_dim)), jnp.float32)
    sums = [jnp.zeros((blocks.q,), jnp.float32) for _ in sum_refs]
    total, *sums = loops.over_columns(plan, rows, blocks.k, body, (start, *sums))
    tiles.write(plan, dquery_ref, batch, head, rows, total if problem.scale is None else total * scale)
    for ref, per_row in zip(sum_refs, sums, strict=True):
        tiles.write_rows(ref, batch, head, rows, per_row)


class KeyGradients(NamedTuple):
    """`dquery` where queries are few, as `dq` returns it; `sums`, the column sums of dscores (b h j), if the bias'
    gradient is summed there."""

    dkey: jax.Array
    dvalue: jax.Array
    dquery: jax.Array | None
    sums: jax.Array | None


def dkv(plan: Plan, inputs: Inputs, saved: Saved) -> KeyGradients:
    problem, blocks = plan.problem, plan.blocks("dkv")
    count = -(-problem.kv_len // blocks.k)
    grid, _ = tiles.grid(plan, count, problem.kv_heads)
    out = [jax.ShapeDtypeStruct(x.shape[-4:], problem.dtype) for x in (inputs.key, inputs.value)]
    if plan.few:
        out.append(jax.ShapeDtypeStruct((count, *inputs.query.shape[-4:]), jnp.float32))
    if plan.dbias == "columns":
        out.append(jax.ShapeDtypeStruct((problem.batch, problem.heads, problem.kv_len), jnp.float32))
    dkey, dvalue, *rest = tiles.call(dkv_kernel, plan, blocks, grid, (inputs, saved), out)
    dquery = jnp.sum(rest.pop(0), axis=0).astype(plan.dquery_dtype) if plan.few else None
    return KeyGradients(dkey, dvalue, dquery, rest[0] if rest else None)


def dkv_kernel(plan: Plan, inputs: Inputs, saved: Saved, dkey_ref: Any, dvalue_ref: Any, *refs: Any) -> None:
    dquery_refs, sum_refs = (refs[:1], refs[1:]) if plan.few else ((), refs)
    problem, blocks = plan.problem, plan.blocks("dkv")
    count = -(-problem.kv_len // blocks.k)
    block, key_head, batch = tiles.grid(plan, count, problem.kv_heads)[1]()
    columns = Span(block * blocks.k, blocks.k, problem.kv_len)
    key = tiles.read(plan, inputs.key, batch, key_head, columns)
    value = tiles.read(plan, inputs.value, batch, key_head, columns)
    scale = tiles.scale_of(plan, inputs, batch)

    def one_head(member: jax.Array, totals: Any) -> Any:
        head = key_head * plan.group + member

        def body(edge: bool) -> Any:
            def step(index: jax.Array, carry: Any) -> Any:
                dkey, dvalue, dquery, sums = carry
                rows = Span(index * blocks.q, blocks.q, problem.q_len)
                # Held transposed, the weights go from one product to the next without leaving the registers.
                tile = Tile(batch, head, rows, columns, diagonal=edge, transposed=True)
                query = tiles.read(plan, inputs.query, batch, head, rows)
                cotangent = tiles.read(plan, saved.cotangent, batch, head, rows)
                weights, dscores = weights_and_dscores(plan, inputs, saved, tile, (query, key, value, cotangent), scale)
                factor = tiles.factor(plan, dscores)
                dvalue = dvalue + tiles.dot(plan, tiles.factor(plan, weights), cotangent)
                dkey = dkey + tiles.dot(plan, factor, query)
                dquery = [total + tiles.dot(plan, factor, key, trans_a=True) for total in dquery]
                return dkey, dvalue, dquery, [total + jnp.sum(dscores, axis=1) for total in sums]

            return step

        dquery = [jnp.zeros((blocks.q, padded(problem.head_dim)), jnp.float32) for _ in dquery_refs]
        sums = [jnp.zeros((blocks.k,), jnp.float32) for _ in sum_refs]
        whole = None
        if inputs.some_empty is not None:
            whole = tiles.read_pairs(inputs.some_empty, Tile(batch, head, columns, columns, diagonal=False))
        dkey, dvalue, dquery, sums = loops.over_rows(plan, columns, blocks.q, body, (*totals, dquery, sums), whole)
        for ref, total in zip(dquery_refs, dquery, strict=True):
            rows = Span(block * 0, blocks.q, problem.q_len)
            share = total if problem.scale is None else total * scale
            tiles.write(plan, ref, batch, head, rows, share, outer=(block,))
        for ref, per_column in zip(sum_refs, sums, strict=True):
            tiles.write_rows(ref, batch, head, columns, per_column)
        return dkey, dvalue

    totals = tuple(jnp.zeros((blocks.k, padded(size)), jnp.float32) for size in (problem.head_dim, problem.value_dim))
    if plan.group == 1:
        dkey, dvalue = one_head(jnp.int32(0), totals)
    else:
        dkey, dvalue = lax.fori_loop(jnp.int32(0), jnp.int32(plan.group), one_head, totals)
    tiles.write(plan, dkey_ref, batch, key_head, columns, dkey * scale)
    tiles.write(plan, dvalue_ref, batch, key_head, columns, dvalue)
