"""Pairs in training: batch normalisation with torch's conventions, and with others. Pairs that are told their dtype."""

from __future__ import annotations

import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

from parity import Input, Pair


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 8)
        self.bn = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.bn(self.fc(x))))


class Flax(nnx.Module):
    def __init__(self, momentum=0.9) -> None:
        rngs = nnx.Rngs(0)
        self.fc = nnx.Linear(6, 8, rngs=rngs)
        self.bn = nnx.BatchNorm(8, momentum=momentum, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.bn(self.fc(x))))


class Unbiased(Flax):
    """Keeps torch's variance."""

    def __call__(self, x):
        before = self.bn.var[...]
        y = super().__call__(x)
        if not self.bn.use_running_average:
            n = x.shape[0]
            self.bn.var[...] = before * 0.9 + (self.bn.var[...] - before * 0.9) * n / (n - 1)
        return y


class Frozen(Flax):
    """Normalises with the running statistics in training too."""

    def __call__(self, x):
        return self.out(jnp.tanh(self.bn(self.fc(x), use_running_average=True)))


class Linen(linen.Module):
    momentum: float = 0.9

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dense(8, name="fc")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=self.momentum, name="bn")(x)
        return linen.Dense(3, name="out")(jnp.tanh(x))


class Deterministic(linen.Module):
    """Told in other words."""

    @linen.compact
    def __call__(self, x, *, deterministic=True):
        return Linen(name="inner")(linen.Dropout(0.0)(x, deterministic=deterministic), train=not deterministic)


class TorchInner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Torch()

    def forward(self, x):
        return self.inner(x)


def pair(flax=Flax, torch=Torch, **options):
    given = {"inputs": {"x": Input("b 6")}, "sizes": {"b": 16}, "modes": ("train",), "ignore": ["buffer(*_var)"]}
    return Pair(torch=torch, flax=flax, **(given | options))


both = pair(modes=("eval", "train"), differs=["flax keeps the biased variance"])
unbiased = pair(Unbiased, ignore=())
in_linen, told = pair(Linen), pair(Deterministic, TorchInner)
biased = pair(ignore=())
momentum, momentum_linen = pair(lambda: Flax(0.1)), pair(lambda: Linen(0.1))
frozen = pair(Frozen)


class TorchEmbed(nn.Module):
    """Casts inside to the dtype it was told: in float64 it has to be told that."""

    def __init__(self, dtype=torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.embed, self.out = nn.Embedding(20, 6), nn.Linear(6, 5)

    def forward(self, ids):
        return self.out(self.embed(ids).to(self.dtype) * 3)


class FlaxEmbed(nnx.Module):
    def __init__(self, dtype=None) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(20, 6, dtype=dtype or jnp.float32, rngs=rngs)
        self.out = nnx.Linear(6, 5, dtype=dtype, param_dtype=dtype or jnp.float32, rngs=rngs)

    def __call__(self, ids):
        return self.out(self.embed(ids) * 3)


ids = {"inputs": {"ids": Input("b", dtype="int", range=(0, 20))}, "sizes": {"b": 7}, "dtypes": ("bfloat16", "float32")}
embed = Pair(torch=TorchEmbed, flax=FlaxEmbed, **ids)
embed_untold = Pair(torch=TorchEmbed, flax=lambda: FlaxEmbed(), **ids)
