"""The forward kernel: a program takes a block of queries over all the keys that it sees, with an online softmax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from attend_jax.implementations.triton import loops, tiles
from attend_jax.implementations.triton.plan import LOG2_E, Plan, padded
from attend_jax.implementations.triton.tiles import Inputs, Span, Tile


def forward(plan: Plan, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    """The output, and per row (b h i) the log-sum-exp as `tiles.Saved` has it."""
    problem, blocks = plan.problem, plan.blocks("forward")
    grid, _ = tiles.grid(plan, -(-problem.q_len // blocks.q), problem.heads)
    out = (
        jax.ShapeDtypeStruct(problem.output_shape, problem.dtype),
        jax.ShapeDtypeStruct(problem.scores_shape[:3], jnp.float32),
    )
    return tiles.call(forward_kernel, plan, blocks, grid, (inputs,), out)


def forward_kernel(plan: Plan, inputs: Inputs, output_ref: Any, logsumexp_ref: Any) -> None:
    problem, blocks = plan.problem, plan.blocks("forward")
    count = -(-problem.q_len // blocks.q)
    block, head, batch = tiles.grid(plan, count, problem.heads)[1]()
    if problem.causal is not None:
        block = count - 1 - block  # the longest first, so that no processor is left with one at the end
    rows = Span(block * blocks.q, blocks.q, problem.q_len)
    key_head = tiles.key_head(plan, head)
    query = tiles.read(plan, inputs.query, batch, head, rows)
    scale = tiles.scale_of(plan, inputs, batch)
    # Where nothing but a positive factor stands between products and scores, the maximum can be taken before it, and
    # the factor shares an instruction with the subtraction. Not where a row's maximum may be the fill, though: that
    # instruction does not round the product, and so the difference would not be zero.
    late = inputs.bias is None and not plan.may_be_empty and problem.scale is not None and problem.scale > 0

    def body(edge: bool) -> Any:
        def step(index: jax.Array, carry: Any) -> Any:
            total, maximum, weight = carry
            columns = Span(index * blocks.k, blocks.k, problem.kv_len)
            tile = Tile(batch, head, rows, columns, diagonal=edge, last=edge)
            key = tiles.read(plan, inputs.key, batch, key_head, columns, full=not edge)
            products = tiles.dot(plan, query, key, trans_b=True)
            if late:
                products = tiles.hidden(plan, inputs, tile, products)
                higher = jnp.maximum(maximum, jnp.max(products, axis=1) * (scale * LOG2_E))
                weights = tiles.exp2(plan, products * (scale * LOG2_E) - higher[:, None])
            else:
                scores = tiles.scores(plan, inputs, tile, products, scale)
                higher = jnp.maximum(maximum, jnp.max(scores, axis=1))
                weights = tiles.exp2(plan, scores - higher[:, None])
            shrink = tiles.exp2(plan, maximum - higher)
            weight = weight * shrink + jnp.sum(weights, axis=1)
            keep = tiles.kept(plan, inputs, tile)
            if keep is not None:
                weights = jnp.where(keep, weights, 0.0)
            value = tiles.read(plan, inputs.value, batch, key_head, columns, full=not edge)
            total = total * shrink[:, None] + tiles.dot(plan, tiles.factor(plan, weights), value)
            return total, higher, weight

        return step

    zeros = jnp.zeros((blocks.q,), jnp.float32)
    carry = (jnp.zeros((blocks.q, padded(problem.value_dim)), jnp.float32), zeros - jnp.inf, zeros)
    whole = _whole(plan, inputs, batch, head, rows)
    total, maximum, weight = loops.over_columns(plan, rows, blocks.k, body, carry, whole)
    total = total * (plan.kept_factor / weight)[:, None]
    tiles.write(plan, output_ref, batch, head, rows, total)
    logsumexp = maximum + jnp.log2(weight)
    if plan.may_be_empty:
        logsumexp = jnp.where(maximum > plan.fill, logsumexp, jnp.inf)
    tiles.write_rows(logsumexp_ref, batch, head, rows, logsumexp)


def _whole(plan: Plan, inputs: Inputs, batch: jax.Array, head: jax.Array, rows: Span) -> Any:
    """Whether a row of the block sees no key, and so must be sent over all of them."""
    if inputs.empty is not None:
        tile = Tile(batch, head, rows, rows, diagonal=False)
        return jnp.max(tiles.read_pairs(inputs.empty, tile).astype(jnp.int32)) > 0
    return rows.start < plan.unseeing if plan.unseeing else None
