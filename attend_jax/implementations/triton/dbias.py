"""The gradient of a bias that has both rows and columns, summed over the batches and heads that share it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from attend_jax.implementations.triton import tiles
from attend_jax.implementations.triton.backward import weights_and_dscores
from attend_jax.implementations.triton.plan import Plan
from attend_jax.implementations.triton.tiles import Inputs, Saved, Span, Tile
from attend_jax.problem import Problem

# Programs that are enough to fill a GPU: fewer tiles of the bias than this share their sum among several.
_PROGRAMS = 512


@dataclasses.dataclass(frozen=True)
class Shares:
    """How a bias' gradient is divided among programs: a tile and `own` axes each, summed over the `shared` ones.

    The sum is further split in `splits` where there would otherwise be too few programs; these are added up after.
    """

    batch: int
    heads: int
    q_tiles: int
    k_tiles: int
    own_batch: int
    own_heads: int
    programs: int

    @property
    def shared(self) -> int:
        return self.batch * self.heads // (self.own_batch * self.own_heads)

    @property
    def splits(self) -> int:
        unsplit = self.q_tiles * self.k_tiles * self.own_batch * self.own_heads
        return max(1, min(self.shared, self.programs // unsplit))

    def parts(self, problem: Problem) -> jax.ShapeDtypeStruct:
        """What the splits write."""
        assert problem.bias_shape is not None
        dtype = problem.bias_dtype if self.splits == 1 else jnp.float32
        return jax.ShapeDtypeStruct((self.splits, *problem.bias_shape), dtype)

    def added_up(self, parts: jax.Array, problem: Problem) -> jax.Array:
        return parts[0] if self.splits == 1 else jnp.sum(parts, axis=0).astype(problem.bias_dtype)

    def span(self, split: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which of the shared (batch, head) a split adds up: from, and up to."""
        size = -(-self.shared // self.splits)
        return split * size, jnp.minimum(split * size + size, self.shared)

    def place(self, own: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The batch and head that are the `index`-th to share the `own`-th gradient."""
        own_batch, own_head = divmod_(own, self.own_heads)
        other_batch, other_head = divmod_(index, self.heads // self.own_heads)
        return own_batch if self.own_batch > 1 else other_batch, own_head if self.own_heads > 1 else other_head


def _of(plan: Plan) -> Shares:
    problem, blocks = plan.problem, plan.blocks("dbias")
    assert problem.bias_shape is not None
    tiling = -(-problem.q_len // blocks.q), -(-problem.kv_len // blocks.k)
    own_batch, own_heads, *_ = problem.bias_shape
    return Shares(problem.batch, problem.heads, *tiling, own_batch, own_heads, _PROGRAMS)


def dbias(plan: Plan, inputs: Inputs, saved: Saved) -> jax.Array:
    """The gradient of a bias that has both rows and columns."""
    problem, shares = plan.problem, _of(plan)
    grid = (shares.k_tiles, shares.q_tiles, shares.own_batch * shares.own_heads * shares.splits)
    [parts] = tiles.call(dbias_kernel, plan, plan.blocks("dbias"), grid, (inputs, saved), [shares.parts(problem)])
    return shares.added_up(parts, problem)


def dbias_kernel(plan: Plan, inputs: Inputs, saved: Saved, dbias_ref: Any) -> None:
    problem, blocks, shares = plan.problem, plan.blocks("dbias"), _of(plan)
    columns = Span(pl.program_id(0) * blocks.k, blocks.k, problem.kv_len)
    rows = Span(pl.program_id(1) * blocks.q, blocks.q, problem.q_len)
    own, split = divmod_(pl.program_id(2), shares.splits)
    scale = tiles.scale_of(plan, inputs, own)

    def body(edge: bool) -> Any:
        def step(index: jax.Array, total: jax.Array) -> jax.Array:
            batch, head = shares.place(own, index)
            key_head = tiles.key_head(plan, head)
            tile = Tile(batch, head, rows, columns, diagonal=edge)
            reads = (
                tiles.read(plan, inputs.query, batch, head, rows),
                tiles.read(plan, inputs.key, batch, key_head, columns),
                tiles.read(plan, inputs.value, batch, key_head, columns),
                tiles.read(plan, saved.cotangent, batch, head, rows),
            )
            return total + weights_and_dscores(plan, inputs, saved, tile, reads, scale)[1]

        return step

    start, stop = shares.span(split)
    total = jnp.zeros((blocks.q, blocks.k), jnp.float32)
    if plan.offset is None:
        total = lax.fori_loop(start, stop, body(False), total)
    else:  # one of the loops is empty, and both are beyond the diagonal
        first, last = rows.start + plan.offset, rows.start + (blocks.q - 1 + plan.offset)
        clear = columns.start + (blocks.k - 1) <= first
        seen = columns.start <= last
        total = lax.fori_loop(start, jnp.where(clear, stop, start), body(False), total)
        total = lax.fori_loop(start, jnp.where(seen & ~clear, stop, start), body(True), total)
    write_share(dbias_ref, shares, own, split, rows, columns, total)


def write_share(
    ref: Any, shares: Shares, own: jax.Array, split: jax.Array, rows: Span, columns: Span, total: jax.Array
) -> None:
    """One split's tile of a bias' gradient."""
    own_batch, own_head = divmod_(own, shares.own_heads)
    index = (split, tiles.pick(own_batch, shares.own_batch), tiles.pick(own_head, shares.own_heads))
    mask = tiles.both(
        None if rows.inside is None else rows.inside[:, None],
        None if columns.inside is None else columns.inside[None, :],
    )
    plgpu.store(ref.at[(*index, rows.slice, columns.slice)], total.astype(ref.dtype), mask=mask)


def divmod_(index: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    """Of a traced number that is not negative."""
    if by == 1:
        return index, index * 0
    return lax.div(index, jnp.int32(by)), lax.rem(index, jnp.int32(by))
