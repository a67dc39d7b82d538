"""A pair that is compared in training as well: a convolution block with batch normalisation, in nnx and in Linen.

parity run --pair examples/parity_train.py
parity doctor --pair examples/parity_train.py
"""

from __future__ import annotations

import jax
import torch
from flax import linen, nnx
from torch import nn

from parity import Input, Pair


class TorchBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.silu(self.norm(self.conv(x))).mean((2, 3)))


class NnxBlock(nnx.Module):
    """(b h w c). torch's momentum of 0.1 is 0.9 here."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, channels, (3, 3), padding=1, strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(channels, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.silu(self.norm(self.conv(x))).mean((1, 2)))


class LinenBlock(linen.Module):
    channels: int

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.Conv(self.channels, (3, 3), padding=1, strides=2, use_bias=False, name="conv")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm")(x)
        return linen.Dense(5, name="head")(linen.silu(x).mean((1, 2)))


def channels_last(module: NnxBlock, x: jax.Array) -> jax.Array:
    return module(x.transpose(0, 2, 3, 1))


def channels_last_linen(module: LinenBlock, x: jax.Array, train: bool) -> jax.Array:
    return module(x.transpose(0, 2, 3, 1), train)


images = {"x": Input("b 3 h w")}
sizes = {"b": 4, "h": 9, "w": 7}
differs = ["Flax keeps the biased variance, torch the unbiased one"]
ignore = ["buffer(*.running_var)"]

nnx_block = Pair(
    torch=lambda: TorchBlock(8),
    flax=lambda: NnxBlock(8, nnx.Rngs(0)),
    inputs=images,
    sizes=sizes,
    flax_call=channels_last,
    modes=("eval", "train"),
    differs=differs,
    ignore=ignore,
)
linen_block = Pair(
    torch=lambda: TorchBlock(8),
    flax=lambda: LinenBlock(8),
    inputs=images,
    sizes=sizes,
    flax_call=channels_last_linen,
    modes=("eval", "train"),
    differs=differs,
    ignore=ignore,
)
