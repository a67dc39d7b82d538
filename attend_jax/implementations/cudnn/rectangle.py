"""Causal rectangles from what the kernel has: causal squares, and rectangles in which everything is seen.

A group is some rows and the pieces that together hold all their keys. The forward pass merges the pieces of a group by
their log-sum-exp, in float32. The backward pass needs no merging: given the output and the log-sum-exp of whole rows,
each piece's gradients are its part of the sum.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from attend_jax import private
from attend_jax.implementations.cudnn import kernel
from attend_jax.implementations.cudnn.kernel import Arrays, Call, Saved

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Static:
    """`call` as it is for a rectangle in which everything is seen."""

    call: Call
    corner: str | None


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows and columns from, to; a causal piece is a square. Rows before the first are padding, whose output is cut
    off."""

    rows: Span
    columns: Span
    causal: bool = False

    @property
    def padding(self) -> int:
        return max(0, -self.rows[0])

    @property
    def seen(self) -> Span:
        return max(0, self.rows[0]), self.rows[1]


def groups(corner: str | None, q_len: int, kv_len: int) -> list[list[Piece]]:
    """Down the rows; a lower-right corner has no row that may attend nothing any more (`attend`)."""
    if corner is None or (corner == "lower_right" and q_len == 1):
        return [[Piece((0, q_len), (0, kv_len))]]
    if q_len == kv_len:
        return [[Piece((0, q_len), (0, kv_len), causal=True)]]
    if corner == "upper_left":
        square = [Piece((0, min(q_len, kv_len)), (0, min(q_len, kv_len)), causal=True)]  # no row sees later keys
        return [square] if q_len < kv_len else [square, [Piece((kv_len, q_len), (0, kv_len))]]
    ahead = kv_len - q_len  # keys that every row sees
    if ahead <= q_len or not private.cudnn().exact:
        return [[Piece((-ahead, q_len), (0, kv_len), causal=True)]]  # less work than two calls and their merging
    return [[Piece((0, q_len), (0, ahead)), Piece((0, q_len), (ahead, kv_len), causal=True)]]


def attend(static: Static, arrays: Arrays) -> tuple[jax.Array, jax.Array | None]:
    """Output, and log-sum-exp if the call has it."""
    call, (query, key, value, bias) = static.call, arrays
    q_len, kv_len = query.shape[call.rows], key.shape[call.rows]
    unseeing = q_len - kv_len if static.corner == "lower_right" else 0
    if unseeing <= 0:
        return _attend(static, arrays)
    # The first rows see no key and are uniform (S4).
    heads = 3 - call.rows
    mean = jnp.mean(value, axis=call.rows, keepdims=True, dtype=jnp.float32).astype(value.dtype)
    pattern = "b h 1 e -> b (h g) n e" if call.layout == "bhnd" else "b 1 h e -> b n (h g) e"
    uniform = repeat(mean, pattern, n=unseeing, g=query.shape[heads] // value.shape[heads])
    seeing = arrays._replace(query=_span(query, (unseeing, q_len), call.rows), bias=_from_row(bias, unseeing))
    output, logsumexp = _attend(static, seeing)
    if logsumexp is not None:
        logsumexp = jnp.pad(logsumexp, ((0, 0), (0, 0), (unseeing, 0)), constant_values=-jnp.inf)
    return jnp.concatenate([uniform, output], axis=call.rows), logsumexp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: Static, arrays: Arrays) -> tuple[jax.Array, jax.Array | None]:
    call, own = static.call, _groups(static, arrays)
    if call.logsumexp or any(len(pieces) > 1 for pieces in own):
        return _attend_fwd(static, arrays)[0]
    found = [_seen(call, piece, kernel.forward(*_cut(call, arrays, piece))) for (piece,) in own]
    return _joined(found, call.rows), None


def _attend_fwd(static: Static, arrays: Arrays) -> tuple[tuple[jax.Array, jax.Array | None], Any]:
    call, rows = static.call, []
    for pieces in _groups(static, arrays):
        found = []
        for piece in pieces:
            output, logsumexp = kernel.forward_and_logsumexp(*_cut(call, arrays, piece))
            found.append((_seen(call, piece, output), logsumexp[:, :, piece.padding :]))
        rows.append(found[0] if len(found) == 1 else _merged(call, found))
    outputs, sums = zip(*rows, strict=True)
    output, logsumexp = _joined(outputs, call.rows), _joined(sums, 2)
    return (output, logsumexp if call.logsumexp else None), (arrays, output, logsumexp)


def _attend_bwd(static: Static, residuals: Any, cotangents: Any) -> tuple[Arrays]:
    call, (arrays, output, logsumexp), (cotangent, dlogsumexp) = static.call, residuals, cotangents
    found = []
    for piece in itertools.chain(*_groups(static, arrays)):
        saved = Saved(
            _span(output, piece.rows, call.rows),
            _span(logsumexp, piece.rows, 2),
            _span(cotangent, piece.rows, call.rows),
            None if dlogsumexp is None else _span(dlogsumexp, piece.rows, 2),
        )
        part = kernel.backward(*_cut(call, arrays, piece), saved)
        part = part._replace(query=_seen(call, piece, part.query), bias=_from_row(part.bias, piece.padding))
        found.append((piece, part))
    rows = call.rows
    return (
        Arrays(
            query=_summed(arrays.query, [({rows: piece.seen}, part.query) for piece, part in found]),
            key=_summed(arrays.key, [({rows: piece.columns}, part.key) for piece, part in found]),
            value=_summed(arrays.value, [({rows: piece.columns}, part.value) for piece, part in found]),
            bias=_summed(arrays.bias, [({2: piece.seen, 3: piece.columns}, part.bias) for piece, part in found]),
        ),
    )


_attend.defvjp(_attend_fwd, _attend_bwd)


def _groups(static: Static, arrays: Arrays) -> list[list[Piece]]:
    rows = static.call.rows
    return groups(static.corner, arrays.query.shape[rows], arrays.key.shape[rows])


def _cut(call: Call, arrays: Arrays, piece: Piece) -> tuple[Call, Arrays]:
    """The kernel's own call for a piece."""
    query, key, value, bias = arrays
    if bias is not None:
        bias = _span(_span(bias, piece.rows, 2), piece.columns, 3)
    key, value = (_span(x, piece.columns, call.rows) for x in (key, value))
    own = dataclasses.replace(call, causal=piece.causal)
    return own, Arrays(_span(query, piece.rows, call.rows), key, value, bias)


def _span(array: jax.Array, span: Span, axis: int) -> jax.Array:
    """From, to; zeros before the first."""
    start, stop = span
    if start < 0:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (-start, 0)
        return jnp.pad(array, widths)
    return array if (start, stop) == (0, array.shape[axis]) else jax.lax.slice_in_dim(array, start, stop, axis=axis)


def _seen(call: Call, piece: Piece, array: jax.Array) -> jax.Array:
    """Without the rows of padding."""
    return _span(array, (piece.padding, array.shape[call.rows]), call.rows)


def _from_row(bias: jax.Array | None, row: int) -> jax.Array | None:
    return None if bias is None else _span(bias, (row, bias.shape[2]), 2)


def _joined(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _merged(call: Call, found: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """Of pieces over different keys, the output and log-sum-exp over all of them."""
    outputs, sums = zip(*found, strict=True)
    logsumexp = functools.reduce(jnp.logaddexp, sums)
    beside = "b h i -> b h i 1" if call.layout == "bhnd" else "b h i -> b i h 1"
    shares = [rearrange(jnp.exp(own - logsumexp), beside) for own in sums]
    total = sum(share * output.astype(jnp.float32) for share, output in zip(shares, outputs, strict=True))
    return jnp.asarray(total).astype(outputs[0].dtype), logsumexp


def _summed(whole: Any, parts: list[tuple[dict[int, Span], Any]]) -> Any:
    """Pieces' gradients, each at its place in the whole, {axis: span}, added in float32; None where there is none."""
    (_, first), *rest = parts
    if first is None or (not rest and first.shape == whole.shape):
        return first
    total = jnp.zeros_like(whole, jnp.float32)
    for place, part in parts:
        at = tuple(slice(*place[axis]) if axis in place else slice(None) for axis in range(4))
        total = total.at[at].add(part.astype(jnp.float32))
    return total.astype(whole.dtype)
