"""Pairs whose two sides are set otherwise, for the precision audit; nothing of it is run."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

from parity import Input, Pair


def torch_blocks(epsilon=1e-5, gelu="none"):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.GELU(gelu), nn.Dropout(0.1), nn.Flatten(),
        nn.LayerNorm(8, eps=epsilon), nn.Linear(8, 5),
    )  # fmt: skip


exact = functools.partial(nnx.gelu, approximate=False)


def flax_blocks(epsilon=1e-5, momentum=0.9, padding=1, gelu=exact, **options):
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Conv(3, 8, (3, 3), padding=padding, strides=2, rngs=rngs), nnx.BatchNorm(8, momentum=momentum, rngs=rngs),
        gelu, nnx.Dropout(0.1, rngs=rngs), lambda x: x.reshape(-1, 8), nnx.LayerNorm(8, epsilon=epsilon, rngs=rngs),
        nnx.Linear(8, 5, rngs=rngs, **options),
    )  # fmt: skip


class Linen(linen.Module):
    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.LayerNorm(epsilon=self.epsilon, name="norm")(x)
        return linen.Dropout(0.2)(linen.Dense(5, name="out")(x), deterministic=not train)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.norm(x))


def reckless():
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch_blocks()


def pair(flax=flax_blocks, torch=torch_blocks):
    return Pair(
        torch=torch, flax=flax, inputs={"x": Input("b 3 2 2")}, sizes={"b": 2}, torch_call=lambda module, x: module(x),
        flax_call=lambda module, x: module(x.transpose(0, 2, 3, 1)),
    )  # fmt: skip


same = pair()
wrong = pair(lambda: flax_blocks(1e-6, 0.1, "VALID", nnx.gelu, dtype=jnp.bfloat16))
in_linen = Pair(torch=Named, flax=lambda: Linen(1e-6), inputs={"x": Input("b 8")}, sizes={"b": 2})
tf32 = pair(torch=reckless)
other_weights = pair(lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
unmade = pair(lambda: 1 / 0)


def torch_convolutions():
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, padding="same"), nn.Conv1d(3, 4, 5, padding=2),
        nn.Conv1d(4, 5, 3, padding="same", dilation=4),
        nn.ConvTranspose1d(5, 6, 3), nn.ConvTranspose1d(6, 7, 3, 2, padding=1, output_padding=1),
    )  # fmt: skip


def flax_convolutions():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Conv(2, 3, 3, rngs=rngs), nnx.Conv(3, 4, 5, padding="CAUSAL", rngs=rngs),
        nnx.Conv(4, 5, 3, kernel_dilation=2, rngs=rngs),
        nnx.ConvTranspose(5, 6, 3, padding="VALID", rngs=rngs), nnx.ConvTranspose(6, 7, 3, 2, rngs=rngs),
    )  # fmt: skip


convolutions = pair(flax_convolutions, torch_convolutions)
