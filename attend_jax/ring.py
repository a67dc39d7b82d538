"""Ring attention: queries stay where they are, keys and values go from device to device along a mesh axis.

Each device holds an equal share of the length, and one share of keys and values at a time, so memory is linear in the
length over the number of devices. What a device finds of a share is merged by log-sum-exp; the backward pass sends the
shares round once more, with their gradients (Liu et al., arXiv:2310.01889). Nothing is approximated.

Under a causal square the device with the first rows would have next to nothing to do, and the one with the last rows
everything. So the length is cut in twice as many chunks as there are devices, and device r works on chunks r and
2 * devices - 1 - r: then every device has two pairs of chunks to do in every step. The chunks change places once at the
start and once at the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax import blocks, stacks, sweep
from attend_jax.problem import Operands, Problem, Result, scaled
from attend_jax.stacks import Fixed, Inputs

_ROWS, _COLUMNS = -2, -1
_BLOCK = 256  # rows of scores in memory at a time


@dataclasses.dataclass(frozen=True)
class Ring:
    """What is static. `problem` is what one device sees of it: its share of the lengths."""

    problem: Problem
    axis: tuple[str, ...]
    devices: int

    @property
    def balanced(self) -> bool:
        """Two chunks a device, chosen so that all have the same to do; and no pair beyond the diagonal is computed.

        Not where it must be known what is dropped there: a masked row with no key attends every key (S4).
        """
        p = self.problem
        knows = p.mask_shape is None or p.dropout is None
        return p.causal is not None and p.q_len == p.kv_len and p.q_len % 2 == 0 and knows and self.devices > 1

    @property
    def slots(self) -> int:
        return 2 if self.balanced else 1

    @property
    def rows(self) -> int:
        return self.problem.q_len // self.slots

    @property
    def columns(self) -> int:
        return self.problem.kv_len // self.slots

    @property
    def offset(self) -> int | None:
        """Row r of the whole may attend column c of the whole when c <= r + offset; None without a causal corner."""
        p = self.problem
        if p.causal is None:
            return None
        return self.devices * (p.kv_len - p.q_len) if p.causal == "lower_right" else 0

    @property
    def may_be_empty(self) -> bool:
        return self.problem.mask_shape is not None or (self.offset is not None and self.offset < 0)

    def me(self) -> jax.Array:
        return jax.lax.axis_index(self.axis)

    def chunk(self, device: Any, slot: Any) -> Any:
        """Which chunk of the whole length is in a slot of a device."""
        return jnp.where(slot == 0, device, 2 * self.devices - 1 - device)

    def pairs(self, owner: Any) -> list[tuple[Any, Any, bool]]:
        """What this device does with the owner's share: slots of queries and of keys, and whether the diagonal runs
        through. `owner` is None for its own."""
        if not self.balanced:
            return [(0, 0, False)]
        if owner is None:
            return [(0, 0, True), (1, 1, True), (1, 0, False)]
        # Its last rows see all first chunks; besides, those of an earlier device are seen by its first rows too, and
        # its last rows see the last chunks of a later device.
        slot = jnp.where(owner < self.me(), 0, 1)
        return [(1, 0, False), (slot, slot, False)]

    def piece(self, diagonal: bool) -> sweep.Piece:
        empty = self.may_be_empty and not self.balanced  # there they are seen to once, at the end
        return sweep.Piece(self.rows, self.columns, _BLOCK, 0 if diagonal else None, empty)


def run(problem: Problem, axis: tuple[str, ...], devices: int, operands: Operands) -> Result:
    """The operands of one device, inside `jax.shard_map`, to its part of the result.

    Bias, mask and dropout mask have the rows of the device and the columns of the whole, each unless they broadcast.
    """
    ring = Ring(problem, axis, devices)
    return stacks.run(problem, operands, functools.partial(_attend, ring))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: Ring, inputs: Inputs, fixed: Fixed) -> tuple[jax.Array, jax.Array]:
    return _attend_fwd(ring, inputs, fixed)[0]


def _attend_fwd(ring: Ring, inputs: Inputs, fixed: Fixed) -> tuple[tuple[jax.Array, jax.Array], Any]:
    held, seen = _dealt(ring, inputs), _dealt_fixed(ring, fixed)
    problem = ring.problem

    def visit(here: Any, share: Any, owner: Any) -> tuple[Any, None]:
        for rows, columns, diagonal in ring.pairs(owner):
            stack = _stack(ring, held, seen, share, rows, columns, owner, diagonal)
            part = sweep.forward(problem, ring.piece(diagonal), stack)
            start = rows * ring.rows
            old = [blocks.take(x, start, ring.rows, 3) for x in here]
            new = _merged(ring, old, part)
            here = tuple(_put(x, y, start, 3) for x, y in zip(here, new, strict=True))
        return here, None

    shape = held.query.shape[:-1]
    output = blocks.zeros((*shape, problem.value_dim), problem.scores_dtype, held.query)
    nothing = blocks.zeros(shape, problem.scores_dtype, held.query) - jnp.inf
    (output, logsumexp), _ = _round(ring, visit, (output, nothing), (held.key, held.value))
    if ring.balanced and ring.may_be_empty:
        mean = jax.lax.pmean(jnp.mean(held.value, axis=_ROWS, dtype=output.dtype), ring.axis)
        output = jnp.where((logsumexp == -jnp.inf)[..., None], mean[:, :, None, None], output)
    output, logsumexp = (stacks.join(_deal(ring, x, 3, back=True)) for x in (output.astype(problem.dtype), logsumexp))
    return (output, logsumexp), (inputs, fixed, output, logsumexp)


def _attend_bwd(ring: Ring, residuals: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Inputs, None]:
    inputs, fixed, output, logsumexp = residuals
    problem = ring.problem
    delta = stacks.delta(output, cotangents[0], logsumexp, cotangents[1])
    held, seen = _dealt(ring, inputs), _dealt_fixed(ring, fixed)
    of_rows = blocks.Rows(*(_deal(ring, stacks.split(problem, x), 3) for x in (logsumexp, cotangents[0], delta)))
    uniform = 1 / (ring.devices * problem.kv_len)

    def visit(here: Any, share: Any, owner: Any) -> tuple[Any, Any]:
        dquery, dbias = here
        found = list(_zeros_of_keys(ring, held))
        for rows, columns, diagonal in ring.pairs(owner):
            stack = _stack(ring, held, seen, share, rows, columns, owner, diagonal)
            taken = blocks.Rows(*(blocks.take(x, rows * ring.rows, ring.rows, 3) for x in of_rows))
            part = sweep.backward(problem, ring.piece(diagonal), stack, taken, uniform)
            dquery = _add(dquery, part.query, rows * ring.rows, 3)
            found = [_add(x, y, columns * ring.columns, 3) for x, y in zip(found, part[1:3], strict=True)]
            if dbias is not None:
                dbias = _add_tile(ring, dbias, part.bias, rows, ring.chunk(_device(ring, owner), columns))
        return (dquery, dbias), found

    dtype = problem.scores_dtype
    dbias = None if held.bias is None else blocks.zeros(held.bias.shape, dtype, held.query)
    start = (blocks.zeros(held.query.shape, dtype, held.query), dbias)
    (dquery, dbias), (dkey, dvalue) = _round(ring, visit, start, (held.key, held.value))
    if ring.balanced and ring.may_be_empty:
        empty = jnp.where((of_rows.logsumexp == -jnp.inf)[..., None], of_rows.cotangent, 0)
        everywhere = jax.lax.psum(jnp.sum(empty, axis=(2, 3), dtype=dtype), ring.axis)
        dvalue += everywhere[..., None] * uniform
    dquery, dkey, dvalue = (_deal(ring, x, axis, back=True) for x, axis in ((dquery, 3), (dkey, 3), (dvalue, 3)))
    if dbias is not None:
        dbias = stacks.join(dbias if dbias.shape[_ROWS] == 1 else _deal(ring, dbias, 3, back=True))
    return stacks.gradients(problem, inputs, stacks.join(dquery), dkey, dvalue, dbias), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _round(ring: Ring, visit: Callable[..., Any], here: Any, share: Any) -> tuple[Any, Any]:
    """visit(here, share, owner) -> (here, what belongs to the share), for the share of every device, its own first.

    What belongs to a share travels with it, is added up, and comes home. The next share is sent while this one is used.
    """
    devices = ring.devices

    def send(x: Any) -> Any:
        places = [(device, (device + 1) % devices) for device in range(devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, ring.axis, places), x)

    def step(carry: Any, n: Any, last: bool = False) -> tuple[Any, None]:
        here, share, belonging = carry
        following = share if last else send(share)
        arrived = send(belonging)
        here, part = visit(here, share, (ring.me() - n) % devices)
        return (here, following, jax.tree.map(jnp.add, arrived, part)), None

    if devices == 1:
        return visit(here, share, None)
    following = send(share)
    here, belonging = visit(here, share, None)
    carry = (here, following, belonging)
    if devices > 2:
        carry, _ = jax.lax.scan(step, carry, jnp.arange(1, devices - 1))
    (here, _, belonging), _ = step(carry, devices - 1, last=True)
    return here, send(belonging)


def _device(ring: Ring, owner: Any) -> Any:
    return ring.me() if owner is None else owner


def _stack(
    ring: Ring, held: Inputs, seen: Fixed, share: Any, rows: Any, columns: Any, owner: Any, diagonal: bool
) -> blocks.Stack:
    """A slot of this device's queries against a slot of the owner's keys; `held` and `seen` are its own."""
    first_row = ring.chunk(ring.me(), rows) * ring.rows
    first_column = ring.chunk(_device(ring, owner), columns) * ring.columns

    def tile(array: jax.Array | None) -> jax.Array | None:
        if array is None:
            return None
        if array.shape[_ROWS] != 1:
            array = blocks.take(array, rows * ring.rows, ring.rows, 3)
        return array if array.shape[_COLUMNS] == 1 else blocks.take(array, first_column, ring.columns, 4)

    taken = blocks.take(held.query, rows * ring.rows, ring.rows, 3)
    query, scale = scaled(taken, stacks.scale_of(ring.problem, held), ring.problem)
    key, value = (blocks.take(x, columns * ring.columns, ring.columns, 2) for x in share)
    row = first_row + jnp.arange(ring.rows, dtype=jnp.int32)
    masked = diagonal or (ring.offset is not None and not ring.balanced)
    return blocks.Stack(
        query=query,
        key=key,
        value=value,
        bias=tile(held.bias),
        mask=tile(seen.mask),
        kept=tile(seen.kept),
        words=seen.words,
        scale=scale,
        row=row,
        column=first_column + jnp.arange(ring.columns, dtype=jnp.int32),
        limit=row + ring.offset if masked and ring.offset is not None else None,
    )


def _merged(ring: Ring, old: Any, part: Any) -> tuple[jax.Array, jax.Array]:
    """Two (output, log-sum-exp) over different keys, as if over both. A row that may attend nothing takes the mean."""
    (output, logsumexp), (more, its) = old, part
    both = jnp.logaddexp(logsumexp, its)
    empty = both == -jnp.inf
    finite = jnp.where(empty, 0.0, both)
    weight, weight_of_more = jnp.exp(logsumexp - finite), jnp.exp(its - finite)
    if ring.may_be_empty:
        weight, weight_of_more = jnp.where(empty, 1.0, weight), jnp.where(empty, 1 / ring.devices, weight_of_more)
    return output * weight[..., None] + more * weight_of_more[..., None], both


def _zeros_of_keys(ring: Ring, held: Inputs) -> tuple[jax.Array, jax.Array]:
    """Of `blocks.Gradients.key` and `.value`."""
    dtype = ring.problem.scores_dtype
    key, value = (
        blocks.zeros(jnp.swapaxes(x, _ROWS, _COLUMNS).shape, dtype, held.query) for x in (held.key, held.value)
    )
    return key, value


def _add_tile(ring: Ring, total: jax.Array, part: jax.Array | None, rows: Any, chunk: Any) -> jax.Array:
    """A tile's part of the bias' gradient, at the place where `_stack` took the tile."""
    assert part is not None
    starts = [0] * total.ndim
    starts[_ROWS] = 0 if total.shape[_ROWS] == 1 else rows * ring.rows
    starts[_COLUMNS] = 0 if total.shape[_COLUMNS] == 1 else chunk * ring.columns
    old = jax.lax.dynamic_slice(total, starts, part.shape)
    return jax.lax.dynamic_update_slice(total, old + part, starts)


def _put(total: jax.Array, part: jax.Array, start: Any, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(total, part, start, axis)


def _add(total: jax.Array, part: jax.Array, start: Any, axis: int) -> jax.Array:
    return _put(total, blocks.take(total, start, part.shape[axis], axis) + part, start, axis)


def _dealt(ring: Ring, inputs: Inputs) -> Inputs:
    """What this device works on, with heads in (k g)."""
    key, value = (_deal(ring, x, 2) for x in (inputs.key, inputs.value))
    query, bias = _dealt_rows(ring, inputs.query), _dealt_rows(ring, inputs.bias)
    return Inputs(query, key, value, bias, inputs.scale)


def _dealt_fixed(ring: Ring, fixed: Fixed) -> Fixed:
    words = jax.tree.map(functools.partial(stacks.split, ring.problem), fixed.words)
    return Fixed(_dealt_rows(ring, fixed.mask), _dealt_rows(ring, fixed.kept), words)


def _dealt_rows(ring: Ring, array: Any) -> Any:
    if array is None:
        return None
    array = stacks.split(ring.problem, array)
    return array if array.shape[_ROWS] == 1 else _deal(ring, array, 3)


def _deal(ring: Ring, array: jax.Array, axis: int, *, back: bool = False) -> jax.Array:
    """From the chunks that lie next to each other on a device to those that it works on, or back.

    Chunk c goes to device min(c, last - c). Of the two that a device has, one is even and one odd, before and after.
    """
    if not ring.balanced:
        return array
    last = 2 * ring.devices - 1
    places = [[(c // 2, min(c, last - c)) for c in range(first, 2 * ring.devices, 2)] for first in (0, 1)]
    pair = list(jnp.split(array, 2, axis))
    is_even = ring.me() % 2 == 0
    if back:
        pair = [jnp.where(is_even, pair[0], pair[1]), jnp.where(is_even, pair[1], pair[0])]
        places = [[(to, home) for home, to in direction] for direction in places]
    pair = [jax.lax.ppermute(x, ring.axis, direction) for x, direction in zip(pair, places, strict=True)]
    if not back:
        pair = [jnp.where(is_even, pair[0], pair[1]), jnp.where(is_even, pair[1], pair[0])]
    return jnp.concatenate(pair, axis)
