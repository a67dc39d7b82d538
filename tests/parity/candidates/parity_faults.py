"""Pairs that are wrong, each in one way, and some that cannot be judged."""

from __future__ import annotations

import os
import time

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity import Input, Pair

INPUTS = {"x": Input("b 12")}


class Torch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 7)

    def forward(self, x):
        return self.second(nn.functional.gelu(self.first(self.norm(x))))


class Flax(nnx.Module):
    epsilon, approximate = 1e-5, False

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(12, epsilon=self.epsilon, rngs=rngs)
        self.first = nnx.Linear(12, 12, rngs=rngs)
        self.second = nnx.Linear(12, 7, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.gelu(self.first(self.norm(x)), approximate=self.approximate))


class Epsilon(Flax):
    epsilon = 1e-6


class Tanh(Flax):
    approximate = True


class NoBias(Flax):
    def __call__(self, x):
        return self.second(nnx.gelu(self.first(self.norm(x)) - self.first.bias[...], approximate=False))


class Transposed(Flax):
    def __call__(self, x):
        self.first.kernel[...] = self.first.kernel[...].T
        return super().__call__(x)


class Two(Flax):
    def __call__(self, x):
        return super().__call__(x), x


class Short(Flax):
    def __call__(self, x):
        return super().__call__(x)[:, :5]


class Raises(Flax):
    def __call__(self, x):
        del x
        raise RuntimeError("no luck today")


class Small(Flax):
    def __init__(self) -> None:
        super().__init__()
        self.second = nnx.Linear(12, 8, rngs=nnx.Rngs(0))


class Dies(Flax):
    def __call__(self, x):
        del x
        os._exit(9)


class Sleeps(Flax):
    def __call__(self, x):
        del x
        time.sleep(600)


class Random(Torch):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


class InPlace(Torch):
    def forward(self, x):
        with torch.no_grad():
            x.add_(1)
        return super().forward(x)


def pair(flax=Flax, torch=Torch, **options):
    return Pair(torch=torch, flax=flax, inputs=INPUTS, sizes={"b": 5}, **options)


right = pair(differs=["the torch module is called Torch"])
epsilon, tanh, no_bias, transposed = pair(Epsilon), pair(Tanh), pair(NoBias), pair(Transposed)
two, short, raises, small, dies, sleeps = map(pair, (Two, Short, Raises, Small, Dies, Sleeps))
random, in_place = pair(torch=Random), pair(torch=InPlace)
not_a_module = pair(flax=lambda: jnp.ones(3))
