"""A pre-norm block around `Attend`, as a Flax user writes it, in nnx and in Linen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen, nnx

import attend_jax.linen
from attend_jax import Attend

FEATURES, HEADS = 16, 2


class Block(nnx.Module):
    def __init__(
        self, *, dropout: float = 0.0, dtype: Any = None, param_dtype: Any = jnp.float32, sharding: Any = None,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.norm = nnx.LayerNorm(FEATURES, **dtypes, rngs=rngs)
        self.to_qkv = nnx.Linear(FEATURES, 3 * FEATURES, use_bias=False, **dtypes, rngs=rngs)
        self.attend = Attend(dropout, causal=True, layout="bnhd", sharding=sharding, rngs=rngs)
        self.to_out = nnx.Linear(FEATURES, FEATURES, **dtypes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = rearrange(self.to_qkv(self.norm(x)), "b n (three h d) -> three b n h d", three=3, h=HEADS)
        out = self.attend(query, key, value)
        return x + self.to_out(rearrange(out, "b n h d -> b n (h d)"))


class LinenBlock(linen.Module):
    dropout: float = 0.0

    @linen.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        qkv = linen.Dense(3 * FEATURES, use_bias=False, name="to_qkv")(linen.LayerNorm(name="norm")(x))
        query, key, value = rearrange(qkv, "b n (three h d) -> three b n h d", three=3, h=HEADS)
        attend = attend_jax.linen.Attend(self.dropout, causal=True, layout="bnhd")
        out = attend(query, key, value, deterministic=deterministic)
        return x + linen.Dense(FEATURES, name="to_out")(rearrange(out, "b n h d -> b n (h d)"))
