"""Pairs whose variants are not what they say, and one whose reference raises."""

from __future__ import annotations

import torch
from flax import nnx

from parity import Input, Pair


class Scaled(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.linear = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
        self.factor = factor

    def __call__(self, x):
        return self.linear(x) * self.factor


class Raising(torch.nn.Linear):
    def forward(self, x):  # noqa: ARG002
        raise RuntimeError("not today")


GIVEN = {"inputs": {"x": Input("n 6")}, "sizes": {"n": 5}, "torch_call": lambda module, x: module(x)}
mixed_up = Pair(
    torch=lambda: torch.nn.Linear(6, 4),
    flax=lambda: Scaled(1.0),
    honest={"twice": lambda: Scaled(2.0)},
    wrong={"as it should be": lambda: Scaled(1.0), "by less than rounding": lambda: Scaled(1 + 2**-23)},
    **GIVEN,
)
raising = Pair(torch=lambda: Raising(6, 4), flax=lambda: Scaled(1.0), **GIVEN)
