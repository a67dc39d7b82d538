"""One call of `attend`, split into what is static (`Problem`) and what is traced (`Operands`)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything about a call that is known while tracing; hashable, so it can be a static argument.

    `bias_shape` and `mask_shape` have four axes, each 1 or the full size. `scale` is None when it is traced (it is
    in the operands then). `dropout` says where the dropped weights come from: None (evaluation), "rng" or "mask";
    `broadcast_dropout`, whether an rng drops the same ones in every batch and head, as Flax may have it.
    `platform` is filled in by dispatch: the one that this is lowered for, with the products' precision there.
    """

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    value_dim: int
    dtype: Any
    bias_shape: Shape | None = None
    bias_dtype: Any = None
    mask_shape: Shape | None = None
    causal: str | None = None
    scale: float | None = None
    dropout_rate: float = 0.0
    dropout: str | None = None
    broadcast_dropout: bool = False
    layout: str = "bhnd"
    return_logsumexp: bool = False
    precision: Any = None
    platform: str | None = None

    @property
    def scores_shape(self) -> Shape:
        return (self.batch, self.heads, self.q_len, self.kv_len)

    @property
    def output_shape(self) -> Shape:
        if self.layout == "bhnd":
            return (self.batch, self.heads, self.q_len, self.value_dim)
        return (self.batch, self.q_len, self.heads, self.value_dim)

    @property
    def is_16_bit(self) -> bool:
        return jnp.dtype(self.dtype).itemsize == 2

    @property
    def scores_dtype(self) -> Any:
        """Scores and softmax are float32 for 16-bit inputs, the inputs' dtype otherwise."""
        return jnp.promote_types(self.dtype, jnp.float32)


def partitioned() -> bool:
    """Whether the compiler may cut arrays unseen: there are several devices, and `jax.shard_map` has not cut all."""
    mesh = jax.sharding.get_abstract_mesh()
    by_hand = not mesh.empty and set(mesh.manual_axes) == set(mesh.axis_names)
    return jax.device_count() > 1 and not by_hand


class Operands(NamedTuple):
    """The arrays of a call; `bias` and `mask` have four axes. A pytree.

    `origin` is the place of the first batch and of the first head in the whole, on a device that holds a part (S6).
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: jax.Array | None = None
    mask: jax.Array | None = None
    scale: jax.Array | None = None
    dropout_rng: jax.Array | None = None
    dropout_mask: jax.Array | None = None
    origin: tuple[jax.Array, jax.Array] | None = None


class Result(NamedTuple):
    """What an implementation returns; `logsumexp` is None unless the problem asks for it."""

    output: jax.Array
    logsumexp: jax.Array | None = None


def scaled(query: jax.Array, scale: Any, problem: Problem) -> tuple[jax.Array, Any]:
    """The query with the scale in it, where no 16-bit rounding comes of that, and what remains for the scores (S1)."""
    exact = isinstance(scale, float) and scale > 0 and math.frexp(scale)[0] == 0.5
    if exact or not problem.is_16_bit:
        return query * jnp.asarray(scale, query.dtype), None
    return query, jnp.asarray(scale, problem.scores_dtype)
