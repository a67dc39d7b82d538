"""A published torch layer, written by nobody here, against a port to Flax: the encoder of x-transformers (MIT).

pip install x-transformers
parity run --pair examples/parity_published.py
parity mutate --pair examples/parity_published.py
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from einops import rearrange
from flax import nnx

import attend_jax
from parity import Input, Pair

FEATURES, HEADS, SIZE, DEPTH = 24, 3, 8, 3
Activation = Callable[[jax.Array], jax.Array]


def exact_gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


class Norm(nnx.Module):
    """A layer norm without bias whose scale is `gamma + 1`, as theirs: what is decayed to zero is no scale."""

    def __init__(self, epsilon: float, rngs: nnx.Rngs) -> None:
        self.gamma = nnx.Param(jnp.zeros(FEATURES))
        self.normalise = nnx.LayerNorm(FEATURES, epsilon=epsilon, use_bias=False, use_scale=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.normalise(x) * (self.gamma[...] + 1)


class Attention(nnx.Module):
    """Bias-free projections; causal is a choice of the whole stack."""

    def __init__(self, rngs: nnx.Rngs, *, causal: bool, implementation: str) -> None:
        self.to_q, self.to_k, self.to_v = (
            nnx.Linear(FEATURES, HEADS * SIZE, use_bias=False, rngs=rngs) for _ in range(3)
        )
        self.to_out = nnx.Linear(HEADS * SIZE, FEATURES, use_bias=False, rngs=rngs)
        self.attend = attend_jax.Attend(causal=causal, implementation=implementation)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = (rearrange(to(x), "b n (h d) -> b h n d", h=HEADS) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out(rearrange(self.attend(q, k, v), "b h n d -> b n (h d)"))


class FeedForward(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation: Activation) -> None:
        self.enter = nnx.Linear(FEATURES, 4 * FEATURES, rngs=rngs)
        self.leave = nnx.Linear(4 * FEATURES, FEATURES, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.leave(self.activation(self.enter(x)))


class Layers(nnx.Module):
    """Attention and feed-forward in turn, each after its norm."""

    def __init__(
        self, activation: Activation = exact_gelu, *, causal: bool = False, implementation: str = "auto",
        epsilon: float = 1e-5, final: bool = True,
    ) -> None:  # fmt: skip
        rngs = nnx.Rngs(0)

        def norm() -> Norm:
            return Norm(epsilon, rngs)

        self.attentions = nnx.List(
            [Attention(rngs, causal=causal, implementation=implementation) for _ in range(DEPTH)]
        )
        self.attention_norms = nnx.List([norm() for _ in range(DEPTH)])
        self.feedforwards = nnx.List([FeedForward(rngs, activation) for _ in range(DEPTH)])
        self.feedforward_norms = nnx.List([norm() for _ in range(DEPTH)])
        self.final_norm, self.final = norm(), final

    def __call__(self, x: jax.Array) -> jax.Array:
        for attention_norm, attention, norm, feedforward in zip(
            self.attention_norms, self.attentions, self.feedforward_norms, self.feedforwards, strict=True
        ):
            x = x + attention(attention_norm(x))
            x = x + feedforward(norm(x))
        return self.final_norm(x) if self.final else x


def published() -> torch.nn.Module:
    from x_transformers import Encoder

    return Encoder(dim=FEATURES, depth=DEPTH, heads=HEADS, attn_dim_head=SIZE)


encoder = Pair(
    torch=published,
    flax=Layers,
    inputs={"x": Input(f"b n {FEATURES}")},
    sizes={"b": 2, "n": 9},
    # Attention and feed-forward layers take turns in one list there; their norms are all alike.
    weights=[
        *((f"layers.{2 * n}.0.0.gamma", f"attention_norms.{n}.gamma") for n in range(DEPTH)),
        *((f"layers.{2 * n + 1}.0.0.gamma", f"feedforward_norms.{n}.gamma") for n in range(DEPTH)),
        ("final_norm.gamma", "final_norm.gamma"),
    ],
    honest={"in blocks": lambda: Layers(implementation="blockwise")},
    wrong={
        "tanh GELU": lambda: Layers(nnx.gelu),
        "causal": lambda: Layers(causal=True),
        "epsilon of 1e-6": lambda: Layers(epsilon=1e-6),
        "no final norm": lambda: Layers(final=False),
    },
)
