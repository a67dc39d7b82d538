"""Which weights dropout keeps (S6): a function of (rng, batch, head, row, column) and of nothing else.

Because a weight's fate depends on its place alone, no implementation, block size, sharding or recomputation in
a backward pass can change it, and nothing has to be kept in memory: any block is made where it is needed.

The generator is Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11),
the one behind `jax.random`, written out because it then fuses with the softmax: on a CPU it costs a fifteenth of
`jax.random.bernoulli`. A test holds it bit for bit against `jax.extend.random.threefry_2x32`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, UInt32

from attend_jax.problem import Operands, Problem

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

Words = tuple[UInt32[Array, "..."], UInt32[Array, "..."]]


def threefry(key: Words, counter: Words, *, rolled: bool = False) -> Words:
    """Threefry-2x32-20 of a two-word key and a two-word counter; all four broadcast.

    `rolled` writes its five blocks as a loop, for Triton: written out, kernels of small tiles do not compile within two
    minutes (jax 0.11.2), as a loop they are in seconds. XLA fuses only what is written out.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    state = (counter[0] + keys[0], counter[1] + keys[1])
    if not rolled:
        for block in range(5):
            rotations = [jnp.uint32(bits) for bits in _ROTATIONS[block % 2]]
            state = _block(state, rotations, keys[(block + 1) % 3], keys[(block + 2) % 3] + jnp.uint32(block + 1))
        return state

    def body(block: jax.Array, carry: Any) -> Any:
        state, (first, second, third) = carry
        even = lax.rem(block, jnp.int32(2)) == 0
        rotations = [jnp.where(even, jnp.uint32(a), jnp.uint32(b)) for a, b in zip(*_ROTATIONS, strict=True)]
        state = _block(state, rotations, second, third + (block + 1).astype(jnp.uint32))
        return state, (second, third, first)

    shape = jnp.broadcast_shapes(state[0].shape, state[1].shape)
    state = (jnp.broadcast_to(state[0], shape), jnp.broadcast_to(state[1], shape))
    return lax.fori_loop(jnp.int32(0), jnp.int32(5), body, (state, keys))[0]


def _block(state: Words, rotations: list[jax.Array], first: jax.Array, second: jax.Array) -> Words:
    """Four rounds, and words of the key."""
    x, y = state
    for rotation in rotations:
        x = x + y
        y = ((y << rotation) | (y >> (jnp.uint32(32) - rotation))) ^ x
    return x + first, y + second


def keep_mask(
    rng: jax.Array,
    rate: float,
    batch: UInt32[Array, ...],
    head: UInt32[Array, ...],
    row: UInt32[Array, ...],
    column: UInt32[Array, ...],
) -> Bool[Array, ...]:
    """True where the weight at (batch, head, row, column) is kept, with probability 1 - rate (to within 2**-32).

    Args:
      rng: a JAX random key of any implementation.
      rate: the share that is dropped, 0 to 1.
      batch, head, row, column: global indices, uint32, that broadcast to the block that is wanted.

    >>> row, column = jnp.arange(4, dtype=jnp.uint32)[:, None], jnp.arange(6, dtype=jnp.uint32)
    >>> zero = jnp.uint32(0)
    >>> whole = keep_mask(jax.random.key(0), 0.5, zero, zero, row, column)
    >>> corner = keep_mask(jax.random.key(0), 0.5, zero, zero, row[2:], column[3:])
    >>> bool((whole[2:, 3:] == corner).all())
    True
    """
    return kept(head_key(rng, batch, head), rate, row, column)


def head_key(rng: jax.Array, batch: UInt32[Array, ...], head: UInt32[Array, ...]) -> Words:
    """The generator's key for a (batch, head): the part of `keep_mask` that needs the rng."""
    word = jax.random.bits(rng, (2,), jnp.uint32)
    return threefry((word[0], word[1]), (batch, head))


def kept(
    key: Words, rate: float, row: UInt32[Array, ...], column: UInt32[Array, ...], *, rolled: bool = False
) -> Bool[Array, ...]:
    """The rest of `keep_mask`: plain arithmetic on uint32, which a kernel can do on a tile of its own."""
    bits, _ = threefry(key, (row, column), rolled=rolled)
    if rate >= 1:
        return jnp.zeros(bits.shape, bool)
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def head_keys(rng: jax.Array, shape: tuple[Any, ...], origin: tuple[Any, Any] | None = None) -> Words:
    """`head_key` of each of (batch, heads), (b h); `origin` is the place of the first in the whole, (0, 0) if None."""
    batch, head = (jnp.arange(size, dtype=jnp.uint32) for size in shape)
    if origin is not None:
        batch, head = batch + origin[0].astype(jnp.uint32), head + origin[1].astype(jnp.uint32)
    first, second = head_key(rng, batch[:, None], head)
    return jnp.broadcast_to(first, shape), jnp.broadcast_to(second, shape)


def words(problem: Problem, operands: Operands) -> Words:
    """The generator's key of each of a call's heads, (b h); the same for all where the dropout is broadcast."""
    assert operands.dropout_rng is not None
    shape = problem.scores_shape[:2]
    if not problem.broadcast_dropout:
        return head_keys(operands.dropout_rng, shape, operands.origin)
    first, second = head_key(operands.dropout_rng, jnp.uint32(0), jnp.uint32(0))
    return jnp.broadcast_to(first, shape), jnp.broadcast_to(second, shape)


def full_keep_mask(rng: jax.Array, rate: float, shape: tuple[Any, ...]) -> Bool[Array, "b h i j"]:
    """`keep_mask` for all of (batch, heads, q_len, kv_len)."""
    return whole(head_keys(rng, shape[:2]), rate, shape[2:])


def whole(keys: Words, rate: float, lengths: tuple[Any, ...]) -> Bool[Array, "b h i j"]:
    """All of (q_len, kv_len) of the heads with these keys, (b h)."""
    first, second = (word[..., None, None] for word in keys)
    row, column = (jnp.arange(size, dtype=jnp.uint32) for size in lengths)
    return kept((first, second), rate, row[:, None], column)


def factor(keep: Bool[Array, ...], rate: float, dtype: jnp.dtype) -> jax.Array:
    """What the weights are multiplied with: 1 / (1 - rate) where kept, 0 elsewhere; 0 everywhere at rate 1."""
    return jnp.where(keep, jnp.asarray(0.0 if rate == 1 else 1 / (1 - rate), dtype), jnp.zeros((), dtype))
