"""A pair whose torch half is imported only when it is made, so that a golden of it is replayed without torch.

parity record mlp.safetensors --pair examples/parity_golden.py:mlp     # with torch
parity replay mlp.safetensors --pair examples/parity_golden.py:mlp     # without
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from parity import Input, Pair


def torch_mlp() -> Any:
    from torch import nn

    return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 11))


class FlaxMLP(nnx.Module):
    def __init__(self, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(16, epsilon=epsilon, rngs=rngs)
        self.up = nnx.Linear(16, 24, rngs=rngs)
        self.down = nnx.Linear(24, 11, rngs=rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        return self.down(nnx.gelu(self.up(self.norm(input)), approximate=False))


mlp = Pair(torch=torch_mlp, flax=FlaxMLP, inputs={"input": Input("batch n 16")}, sizes={"batch": 2, "n": (3, 7)})
