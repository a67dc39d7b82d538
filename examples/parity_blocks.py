"""Pairs of small modules, as a porting team would write them.

parity run --pair examples/parity_blocks.py
parity run --pair examples/parity_blocks.py:encoder --dtype bfloat16
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity import Input, Pair


class TorchMLP(nn.Module):
    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.up = nn.Linear(features, hidden)
        self.down = nn.Linear(hidden, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class FlaxMLP(nnx.Module):
    def __init__(self, features: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(features, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(features, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(nnx.gelu(self.up(self.norm(x)), approximate=False))


class TorchEncoder(nn.Module):
    """Pre-norm, with packed projections."""

    def __init__(self, features: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(depth))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(features, heads, batch_first=True) for _ in range(depth))
        self.mlps = nn.ModuleList(TorchMLP(features, 4 * features) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            y = norm(x)
            x = mlp(x + attention(y, y, y, need_weights=False)[0])
        return x


def chunked_attention(query: jax.Array, key: jax.Array, value: jax.Array, **_: object) -> jax.Array:
    """A chunk of queries at a time, scaled before the product."""
    chunks = jnp.array_split(query / query.shape[-1] ** 0.5, 3, axis=1)
    weights = [nnx.softmax(jnp.einsum("bihd,bjhd->bhij", chunk, key)) for chunk in chunks]
    return jnp.concatenate([jnp.einsum("bhij,bjhd->bihd", each, value) for each in weights], axis=1)


class FlaxEncoder(nnx.Module):
    def __init__(self, features: int, heads: int, depth: int, rngs: nnx.Rngs, **options: Any) -> None:
        self.norms = nnx.List([nnx.LayerNorm(features, epsilon=1e-5, rngs=rngs) for _ in range(depth)])
        self.attentions = nnx.List(
            [nnx.MultiHeadAttention(heads, features, decode=False, rngs=rngs, **options) for _ in range(depth)]
        )
        self.mlps = nnx.List([FlaxMLP(features, 4 * features, rngs) for _ in range(depth)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            x = mlp(x + attention(norm(x)))
        return x


class TorchConvBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.norm = nn.GroupNorm(4, 2 * channels)
        self.conv2 = nn.Conv2d(2 * channels, channels, 3, padding=1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(nn.functional.silu(self.norm(self.conv1(x))))


class FlaxConvBlock(nnx.Module):
    """(b h w c), with torch's padding: SAME would pad a stride of 2 on the other side."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(channels, 2 * channels, (3, 3), padding=1, rngs=rngs)
        self.norm = nnx.GroupNorm(2 * channels, num_groups=4, epsilon=1e-5, rngs=rngs)
        self.conv2 = nnx.Conv(2 * channels, channels, (3, 3), padding=1, strides=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv2(nnx.silu(self.norm(self.conv1(x))))


def channels_last(module: FlaxConvBlock, x: jax.Array) -> jax.Array:
    return module(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


mlp = Pair(
    torch=lambda: TorchMLP(32, 48),
    flax=lambda: FlaxMLP(32, 48, nnx.Rngs(0)),
    inputs={"x": Input("b n 32")},
    sizes={"b": 2, "n": (5, 17)},
)
encoder = Pair(
    torch=lambda: TorchEncoder(24, 3, 2),
    flax=lambda: FlaxEncoder(24, 3, 2, nnx.Rngs(0)),
    inputs={"x": Input("b n 24")},
    sizes={"b": 2, "n": 7},
    honest={"in chunks": lambda: FlaxEncoder(24, 3, 2, nnx.Rngs(0), attention_fn=chunked_attention)},
)
conv_block = Pair(
    torch=lambda: TorchConvBlock(8),
    flax=lambda: FlaxConvBlock(8, nnx.Rngs(0)),
    inputs={"x": Input("b 8 h w")},
    sizes={"b": 2, "h": (9, 12), "w": (7, 10)},
    flax_call=channels_last,
)
