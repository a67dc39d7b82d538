"""The backward kernels. Each computes the weights anew from the row's log-sum-exp; none adds to what another writes.

    dq      a program takes a block of queries over the keys that it sees
    dkv     a program takes a block of keys over the queries that see it, of all heads of its group
    dbias   a program takes a tile of the bias over the batches and heads that share it

With p the weights, dp = cotangent · valueᵀ (dropped as the weights were) and delta = rowsum(output * cotangent) less the
log-sum-exp's cotangent: dscores = p * (dp - delta), dvalue = pᵀ · cotangent, dquery = scale * dscores · key, and so on.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from attend_jax.implementations.triton import tiles
from attend_jax.implementations.triton.plan import Plan, padded
from attend_jax.implementations.triton.tiles import Inputs, Saved, Span, Tile

# Programs that are enough to fill a GPU: fewer tiles of the bias than this share their sum among several.
_PROGRAMS = 512


def _weights(
    plan: Plan, inputs: Inputs, tile: Tile, query: Any, key: Any, value: Any, cotangent: Any, rows: Any, scale: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, weights and the scores' gradient on a tile; `rows` are log-sum-exp and delta as the tile wants them."""
    logsumexp, delta = rows
    a, b = (key, query) if tile.transposed else (query, key)
    scores = tiles.scores(plan, inputs, tile, tiles.dot(plan, a, b, trans_b=True), scale)
    weights = tiles.exp2(plan, scores - logsumexp)
    c, d = (value, cotangent) if tile.transposed else (cotangent, value)
    dweights = tiles.dot(plan, c, d, trans_b=True)
    keep = tiles.kept(plan, inputs, tile)
    dscores = weights * ((dweights if keep is None else jnp.where(keep, dweights * plan.kept_factor, 0.0)) - delta)
    if plan.may_be_empty:  # uniform (S4), and with no gradient to the scores
        weights = jnp.where(logsumexp == jnp.inf, 1 / plan.problem.kv_len, weights)
    if keep is not None:
        weights = jnp.where(keep, weights * plan.kept_factor, 0.0)
    return scores, weights, dscores


def _rows(plan: Plan, saved: Saved, tile: Tile) -> tuple[jax.Array, jax.Array]:
    logsumexp = tiles.read_rows(saved.logsumexp, tile.batch, tile.head, tile.rows, math.inf)
    return tile.down(logsumexp), tile.down(tiles.read_rows(saved.delta, tile.batch, tile.head, tile.rows, 0.0))
