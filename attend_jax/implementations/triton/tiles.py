"""What the kernels share: where a program stands, how tiles are read and written, and the scores of a tile.

Every kernel sees whole arrays and takes its tiles out of them by index, so that both layouts, axes of size 1 and
grouped heads cost nothing in memory. Rows are queries and columns are keys, also in tiles that are held transposed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from attend_jax import dropout
from attend_jax.implementations.triton.plan import LOG2_E, Blocks, Plan, padded

Ref = Any
# What a product takes: the numbers themselves, or in 32 bits three bfloat16 tiles that add up to them.
Factor = tuple[jax.Array, ...]


class Inputs(NamedTuple):
    """What attention is a function of. In 32 bits the kernels see query, key and value as `parted` makes them.

    `words` (2 b h) are the key of dropout's generator, two words a (batch, head). `empty` (#b #h i 1) says which rows
    mask and causal corner together leave no key, and `some_empty` (#b #h 1 1) whether there is one.
    """

    query: Any
    key: Any
    value: Any
    bias: Any = None
    mask: Any = None
    scale: Any = None
    words: Any = None
    dropout_mask: Any = None
    empty: Any = None
    some_empty: Any = None


class Saved(NamedTuple):
    """What a backward kernel reads besides: the output's cotangent and, both (b h i), log-sum-exp and delta.

    `logsumexp` is in units of log 2, and +inf for a row with no key: exp2(score - inf) is then 0.
    """

    cotangent: Any
    logsumexp: Any
    delta: Any


@dataclasses.dataclass(frozen=True)
class Span:
    """`size` rows or columns from `start` on, of an axis of `length`."""

    start: jax.Array
    size: int
    length: int

    @property
    def indices(self) -> jax.Array:
        return self.start + lax.iota(jnp.int32, self.size)

    @property
    def slice(self) -> Any:
        return pl.ds(self.start, self.size)

    @property
    def inside(self) -> jax.Array | None:
        """Which ones exist; None when all do, whatever the start."""
        return None if self.length % self.size == 0 else self.indices < self.length


@dataclasses.dataclass(frozen=True)
class Tile:
    """Rows by columns of the scores of one (batch, head); `transposed`: held as columns by rows.

    `diagonal`: it may hold pairs beyond the causal corner's. `last`: it may hold columns beyond the last key.
    """

    batch: jax.Array
    head: jax.Array
    rows: Span
    columns: Span
    diagonal: bool
    last: bool = True
    transposed: bool = False

    def down(self, per_row: jax.Array) -> jax.Array:
        """One number a row, as the tile wants it."""
        return per_row[None, :] if self.transposed else per_row[:, None]

    def across(self, per_column: jax.Array) -> jax.Array:
        return per_column[:, None] if self.transposed else per_column[None, :]


def call(kernel: Callable[..., None], plan: Plan, blocks: Blocks, grid: tuple[int, ...], arrays: Any, out: Any) -> Any:
    """Launch `kernel(plan, *arrays, *out)`, all of them references to whole arrays."""

    def bound(*references: Any) -> None:
        kernel(plan, *references)

    bound.__name__ = name = f"attend_{kernel.__name__}"  # what a profiler shows
    return pl.pallas_call(
        bound,
        grid=grid,
        out_shape=out,
        interpret=plan.interpret,
        compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        name=name,
    )(*arrays)


def grid(plan: Plan, blocks: int, heads: int) -> tuple[tuple[int, ...], Callable[[], tuple[jax.Array, ...]]]:
    """A program a (block, head, batch): the grid, and where a program stands in it.

    Programs that run together should read the same bias or mask, so the axes that these broadcast over run fastest.
    """
    shapes = (plan.problem.bias_shape, plan.problem.mask_shape)
    shared = [axis for axis in (0, 1) if any(shape is not None and shape[axis] == 1 for shape in shapes)]
    order = {0: "batch", 1: "head"}
    names = [order[axis] for axis in shared] + ["block"] + [order[axis] for axis in (1, 0) if axis not in shared]
    sizes = {"block": blocks, "head": heads, "batch": plan.problem.batch}

    def place() -> tuple[jax.Array, ...]:
        ids = {name: pl.program_id(axis) for axis, name in enumerate(names)}
        return ids["block"], ids["head"], ids["batch"]

    return tuple(sizes[name] for name in names), place


def read(plan: Plan, ref: Ref, batch: jax.Array, head: jax.Array, span: Span, *, full: bool = False) -> Factor:
    """The span's features out of query, key, value or a cotangent; zeros where there is nothing.

    `full` promises that the span does not reach beyond the end.
    """
    places = [(batch,)] if plan.parts == 1 else [(batch * 0 + part, batch) for part in range(plan.parts)]
    found = [_features(plan, ref, place, head, span, full) for place in places]
    return tuple(plgpu.load(at, mask=mask, other=None if mask is None else 0.0) for at, mask in found)


def write(
    plan: Plan, ref: Ref, batch: jax.Array, head: jax.Array, span: Span, tile: jax.Array,
    *, outer: tuple[jax.Array, ...] = (),
) -> None:  # fmt: skip
    """`outer`: indices before the batch."""
    at, mask = _features(plan, ref, (*outer, batch), head, span, False)
    plgpu.store(at, tile.astype(ref.dtype), mask=mask)


def _features(
    plan: Plan, ref: Ref, place: tuple[jax.Array, ...], head: jax.Array, span: Span, full: bool
) -> tuple[Any, jax.Array | None]:
    size = ref.shape[-1]
    pad = padded(size)
    # A slice that starts at a traced zero may reach beyond the array: what lies there is masked.
    features = pl.ds(0, size) if size == pad else pl.ds(span.start * 0, pad)
    index = (head, span.slice) if plan.problem.layout == "bhnd" else (span.slice, head)
    mask = both(
        None if full or span.inside is None else span.inside[:, None],
        None if size == pad else (lax.iota(jnp.int32, pad) < size)[None, :],
    )
    return ref.at[(*place, *index, features)], mask


def read_rows(ref: Ref, batch: jax.Array, head: jax.Array, rows: Span, other: float) -> jax.Array:
    """One number a row, of a (b h i) array."""
    return plgpu.load(ref.at[batch, head, rows.slice], mask=rows.inside, other=None if rows.inside is None else other)


def write_rows(ref: Ref, batch: jax.Array, head: jax.Array, rows: Span, numbers: jax.Array) -> None:
    plgpu.store(ref.at[batch, head, rows.slice], numbers, mask=rows.inside)


def read_pairs(ref: Ref, tile: Tile) -> jax.Array:
    """The tile of a bias or mask (#b #h #i #j), broadcast no further than its own axes ask for."""
    batch, head = (pick(index, size) for index, size in zip((tile.batch, tile.head), ref.shape, strict=False))
    rows = tile.rows if ref.shape[2] > 1 else None
    columns = tile.columns if ref.shape[3] > 1 else None
    index = tuple(tile.rows.start * 0 if span is None else span.slice for span in (rows, columns))
    row_mask = None if rows is None else rows.inside
    column_mask = None if columns is None or not tile.last else columns.inside
    if rows is not None and columns is not None:
        row_mask = None if row_mask is None else row_mask[:, None]
        column_mask = None if column_mask is None else column_mask[None, :]
    mask = both(row_mask, column_mask)
    other = None if mask is None else False if ref.dtype == jnp.bool_ else 0.0
    loaded = plgpu.load(ref.at[(batch, head, *index)], mask=mask, other=other)
    if rows is not None and columns is not None:
        return loaded.T if tile.transposed else loaded
    return loaded if rows is columns is None else tile.down(loaded) if columns is None else tile.across(loaded)


def pick(index: jax.Array, size: int) -> jax.Array:
    """The index into an axis that is full or 1; traced, because the interpreter takes no other."""
    return index if size > 1 else index * 0


def both(first: jax.Array | None, second: jax.Array | None) -> jax.Array | None:
    return second if first is None else first if second is None else first & second


def parted(plan: Plan, array: jax.Array) -> jax.Array:
    """An array that products are made of, as `read` takes it: in 32 bits (3 ...), the bfloat16 parts of its numbers."""
    return array if plan.parts == 1 else jnp.stack(_parts(array, _to_bfloat16))


def parted_inputs(plan: Plan, inputs: Inputs) -> Inputs:
    query, key, value = (parted(plan, x) for x in (inputs.query, inputs.key, inputs.value))
    return inputs._replace(query=query, key=key, value=value)


def factor(plan: Plan, tile: jax.Array) -> Factor:
    """A tile of float32 numbers as a product takes it."""
    if plan.parts == 1:
        return (tile.astype(plan.problem.dtype),)
    # Triton rounds where it is told to; XLA, which interprets the kernels, takes casts to and fro away.
    return _parts(tile, _to_bfloat16 if plan.interpret else lambda x: x)


# The 8 bits of exponent and 7 of significand that bfloat16 has, in float32.
_to_bfloat16 = functools.partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=7)


def _parts(numbers: jax.Array, rounded: Callable[[jax.Array], jax.Array]) -> Factor:
    """Three bfloat16 numbers have the 24 bits of a float32's significand, so nothing is lost."""
    parts = []
    for _ in range(3):
        parts.append(rounded(numbers).astype(jnp.bfloat16))
        numbers = numbers - parts[-1].astype(jnp.float32)
    return tuple(parts)


# The products of parts that count in float32 (the others are below 2**-25 of the whole), the smallest first.
_PRODUCTS = {1: [(0, 0)], 3: [(0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0)]}


def dot(plan: Plan, a: Factor, b: Factor, *, trans_a: bool = False, trans_b: bool = False) -> jax.Array:
    products = (plgpu.dot(a[i], b[j], trans_a=trans_a, trans_b=trans_b) for i, j in _PRODUCTS[plan.parts])
    return functools.reduce(jnp.add, products)


def scale_of(plan: Plan, inputs: Inputs, batch: jax.Array) -> Any:
    """A number when it is static, read when it is traced."""
    return plan.problem.scale if inputs.scale is None else plgpu.load(inputs.scale.at[batch * 0])


def key_head(plan: Plan, head: jax.Array) -> jax.Array:
    return head if plan.group == 1 else lax.div(head, jnp.int32(plan.group))


def scores(plan: Plan, inputs: Inputs, tile: Tile, products: jax.Array, scale: Any) -> jax.Array:
    """Scaled, biased and masked (S1 to S3, S12), in units of log 2; -inf, so without weight, beyond the last key."""
    made = products * (scale * LOG2_E)
    if inputs.bias is not None:
        made = made + read_pairs(inputs.bias, tile).astype(jnp.float32) * LOG2_E
    return hidden(plan, inputs, tile, made)


def hidden(plan: Plan, inputs: Inputs, tile: Tile, made: jax.Array) -> jax.Array:
    """What may not be attended replaced (S3)."""
    keep = None if inputs.mask is None else read_pairs(inputs.mask, tile)
    if tile.diagonal and plan.offset is not None:
        seen = tile.across(tile.columns.indices) <= tile.down(tile.rows.indices + plan.offset)
        keep = both(keep, seen)
    if keep is not None:
        made = jnp.where(keep, made, plan.fill)
    if tile.last and tile.columns.inside is not None:
        made = jnp.where(tile.across(tile.columns.inside), made, -jnp.inf)
    return made


def kept(plan: Plan, inputs: Inputs, tile: Tile) -> jax.Array | None:
    """Which weights dropout keeps (S6, S16), by their place in the whole; None without dropout."""
    if plan.problem.dropout is None:
        return None
    if plan.problem.dropout == "mask":
        return read_pairs(inputs.dropout_mask, tile)
    zero = tile.batch * 0
    first, second = (plgpu.load(inputs.words.at[zero + word, tile.batch, tile.head]) for word in (0, 1))
    row, column = (span.indices.astype(jnp.uint32) for span in (tile.rows, tile.columns))
    return dropout.kept((first, second), plan.problem.dropout_rate, tile.down(row), tile.across(column), rolled=True)


def exp2(plan: Plan, x: jax.Array) -> jax.Array:
    """The GPU's own instruction is off by 2 units in the last place, as libdevice's, and flushes subnormals to zero."""
    if plan.interpret or not plan.tuning.fast_exp2:
        return jnp.exp2(x)
    [y] = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return y
