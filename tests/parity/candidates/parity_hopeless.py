"""Pairs that cannot be judged, each for one reason, beside one that can."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity import Input, Pair


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(x)


class Flax(nnx.Module):
    def __init__(self) -> None:
        self.linear = nnx.Linear(6, 5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.linear(x)


class TorchDropout(Torch):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.linear(x))


class FlaxDropout(Flax):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nnx.Dropout(0.25, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.drop(self.linear(x))


class FlaxRandom(FlaxDropout):
    def __call__(self, x):
        return self.linear(x) + jax.random.uniform(self.drop.rngs(), ())


class TorchGrows(Torch):
    def forward(self, x):
        self.late = nn.Parameter(torch.ones(5))
        return self.linear(x) * self.late


class TorchWrites(Torch):
    def forward(self, x):
        x.data.mul_(2)
        return self.linear(x)


class FlaxGrows(Flax):
    def __call__(self, x):
        self.late = nnx.Param(jnp.ones(5))
        return self.linear(x) * self.late[...]


class TorchNamed(Torch):
    def forward(self, x):
        return {"hidden": x, "logits": self.linear(x)}


class TorchNan(Torch):
    def forward(self, x):
        return self.linear(x) * torch.nan


class FlaxNan(Flax):
    def __call__(self, x):
        return self.linear(x) * jnp.nan


class FlaxAborts(Flax):
    def __call__(self, x):
        del x
        os.abort()


class FlaxGreedy(Flax):
    def __call__(self, x):
        del x
        raise MemoryError("a table of everything")


class TorchGreedy(Torch):
    def forward(self, x):
        return self.linear(x) + torch.zeros(1 << 52)[0]


class TorchLazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(5)

    def forward(self, x):
        return self.linear(x)


def pair(torch=Torch, flax=Flax, **options):
    return Pair(torch=torch, flax=flax, **({"inputs": {"x": Input("b 6")}, "sizes": {"b": 4}} | options))


right = pair()
drops, flax_drops = pair(TorchDropout, modes=("train",)), pair(flax=FlaxDropout, modes=("train",))
random = pair(flax=FlaxRandom)
grows, flax_grows = pair(TorchGrows), pair(flax=FlaxGrows)
writes, named = pair(TorchWrites), pair(TorchNamed)
nan = pair(TorchNan, FlaxNan)
aborts = pair(flax=FlaxAborts)
greedy, torch_greedy = pair(flax=FlaxGreedy), pair(TorchGreedy)
wrong_size = pair(inputs={"x": Input("b 7")})
lazy = pair(TorchLazy)
nothing = pair(ignore=["*"])
