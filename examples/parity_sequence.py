"""Pairs of sequence models: a decoder with cross-attention, a GRU, an encoder 24 layers deep.

parity run --pair examples/parity_sequence.py
parity mutate --pair examples/parity_sequence.py:decoder
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from parity import Input, Pair

FEATURES, HEADS, WORDS = 24, 3, 50
Activation = Callable[[jax.Array], jax.Array]
Dtype = Any


def exact_gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


class TorchDecoder(nn.Module):
    """Token ids and an encoder's output to logits, and to the likeliest token."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, FEATURES)
        layer = nn.TransformerDecoderLayer(
            FEATURES, HEADS, 2 * FEATURES, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerDecoder(layer, depth, nn.LayerNorm(FEATURES))
        self.head = nn.Linear(FEATURES, WORDS, bias=False)

    def forward(self, ids: torch.Tensor, memory: torch.Tensor, padding: torch.Tensor) -> dict[str, torch.Tensor]:
        length = ids.shape[1]
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        padding = padding & (torch.arange(memory.shape[1]) > 0)  # the first is always seen
        x = self.layers(self.embed(ids), memory, tgt_mask=ahead, memory_key_padding_mask=padding)
        logits = self.head(x)
        return {"logits": logits, "likeliest": logits.argmax(-1)}


class FlaxDecoderLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation: Activation, causal: bool, epsilon: float) -> None:
        attention = {"num_heads": HEADS, "in_features": FEATURES, "decode": False, "rngs": rngs}
        self.self_attn, self.multihead_attn = (nnx.MultiHeadAttention(**attention) for _ in range(2))
        self.norm1, self.norm2, self.norm3 = (nnx.LayerNorm(FEATURES, epsilon=epsilon, rngs=rngs) for _ in range(3))
        self.linear1 = nnx.Linear(FEATURES, 2 * FEATURES, rngs=rngs)
        self.linear2 = nnx.Linear(2 * FEATURES, FEATURES, rngs=rngs)
        self.activation, self.causal = activation, causal

    def __call__(self, x: jax.Array, memory: jax.Array, seen: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x[..., 0]) if self.causal else None
        x = x + self.self_attn(self.norm1(x), mask=mask)
        x = x + self.multihead_attn(self.norm2(x), memory, mask=seen)
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


class FlaxDecoder(nnx.Module):
    def __init__(
        self, depth: int, activation: Activation = exact_gelu, *, causal: bool = True, padded: bool = True,
        epsilon: float = 1e-5, scaled: bool = False, dtype: Dtype = jnp.float32,
    ) -> None:  # fmt: skip
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(WORDS, FEATURES, dtype=dtype, rngs=rngs)  # whose rows are of float32 unless it is told
        self.layers = nnx.List([FlaxDecoderLayer(rngs, activation, causal, epsilon) for _ in range(depth)])
        self.norm = nnx.LayerNorm(FEATURES, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(FEATURES, WORDS, use_bias=False, rngs=rngs)
        self.padded, self.scaled = padded, scaled

    def __call__(self, ids: jax.Array, memory: jax.Array, padding: jax.Array) -> dict[str, jax.Array]:
        hidden = padding & (jnp.arange(memory.shape[1]) > 0)
        if not self.padded:
            hidden = jnp.zeros_like(hidden)
        x = self.embed(ids) * (FEATURES**0.5 if self.scaled else 1.0)
        for layer in self.layers:
            x = layer(x, memory, ~hidden[:, None, None, :])
        logits = self.head(self.norm(x))
        return {"logits": logits, "likeliest": jnp.argmax(logits, -1)}


class TorchGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, last = self.gru(x)
        return self.head(states), last[0]


class FlaxGRU(nnx.Module):
    def __init__(self, *, backwards: bool = False, late_reset: bool = True, unrolled: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.gru = nnx.GRUCell(12, 16, rngs=rngs)
        self.gru.dense_h = nnx.Linear(16, 48, rngs=rngs)  # torch has a second bias
        self.head = nnx.Linear(16, 8, rngs=rngs)
        self.backwards, self.late_reset, self.unrolled = backwards, late_reset, unrolled

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(state: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            if self.late_reset:
                return self.gru(state, now)
            return _early_reset(self.gru, state, now)

        sequence = jnp.swapaxes(x[:, ::-1] if self.backwards else x, 0, 1)
        state = jnp.zeros((x.shape[0], 16), x.dtype)
        if self.unrolled:
            found = []
            for now in sequence:
                state, out = step(state, now)
                found.append(out)
            states = jnp.stack(found, 1)
        else:
            state, states = jax.lax.scan(step, state, sequence)
            states = jnp.swapaxes(states, 0, 1)
        return self.head(states), state


def _early_reset(cell: Any, state: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The other GRU in use: it resets the state before the product, not after."""
    input_r, input_z, input_n = jnp.split(cell.dense_i(now), 3, -1)
    hidden_r, hidden_z, _ = jnp.split(cell.dense_h(state), 3, -1)
    reset, update = jax.nn.sigmoid(input_r + hidden_r), jax.nn.sigmoid(input_z + hidden_z)
    candidate = jnp.tanh(input_n + jnp.split(cell.dense_h(reset * state), 3, -1)[2])
    state = (1 - update) * candidate + update * state
    return state, state


class TorchDeep(nn.Module):
    """Initialised as GPT-2: small weights, and a layer adds the less to the residual stream, the deeper the stack."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            FEATURES, HEADS, 2 * FEATURES, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 2:
                    residual = name.endswith(("out_proj.weight", "linear2.weight"))
                    nn.init.normal_(parameter, std=0.02 / (2 * depth) ** 0.5 if residual else 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class FlaxDeepLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation: Activation) -> None:
        self.self_attn = nnx.MultiHeadAttention(HEADS, FEATURES, decode=False, rngs=rngs)
        self.norm1, self.norm2 = (nnx.LayerNorm(FEATURES, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.linear1 = nnx.Linear(FEATURES, 2 * FEATURES, rngs=rngs)
        self.linear2 = nnx.Linear(2 * FEATURES, FEATURES, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))


class FlaxDeep(nnx.Module):
    """`odd` is the activation of the middle layer."""

    def __init__(self, depth: int, odd: Activation = exact_gelu, *, remat: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([FlaxDeepLayer(rngs, odd if n == depth // 2 else exact_gelu) for n in range(depth)])
        self.remat = remat

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.remat(type(layer).__call__)(layer, x) if self.remat else layer(x)
        return x


decoder = Pair(
    torch=lambda: TorchDecoder(2),
    flax=lambda dtype: FlaxDecoder(2, dtype=dtype),
    inputs={
        "ids": Input("b i", dtype="int", range=(0, WORDS)),
        "memory": Input(f"b j {FEATURES}"),
        "padding": Input("b j", dtype="bool", std=0.3),
    },
    sizes={"b": 2, "i": 7, "j": 11},
    honest={"GELU by erfc": lambda dtype: FlaxDecoder(2, lambda x: x * 0.5 * jax.lax.erfc(-x * 0.5**0.5), dtype=dtype)},
    wrong={
        "tanh GELU": lambda dtype: FlaxDecoder(2, nnx.gelu, dtype=dtype),
        "not causal": lambda dtype: FlaxDecoder(2, causal=False, dtype=dtype),
        "padding left out": lambda dtype: FlaxDecoder(2, padded=False, dtype=dtype),
        "epsilon of 1e-6 in all norms": lambda dtype: FlaxDecoder(2, epsilon=1e-6, dtype=dtype),
        "embedding scaled": lambda dtype: FlaxDecoder(2, scaled=True, dtype=dtype),
    },
)
gru = Pair(
    torch=TorchGRU,
    flax=FlaxGRU,
    inputs={"x": Input("b n 12")},
    sizes={"b": 3, "n": 9},
    honest={"unrolled": lambda: FlaxGRU(unrolled=True)},
    wrong={
        "backwards": lambda: FlaxGRU(backwards=True),
        "reset before the product": lambda: FlaxGRU(late_reset=False),
    },
)
deep = Pair(
    torch=lambda: TorchDeep(24),
    flax=lambda: FlaxDeep(24),
    inputs={"x": Input(f"b n {FEATURES}", std=0.02)},
    sizes={"b": 2, "n": 6},
    honest={"rematerialised": lambda: FlaxDeep(24, remat=True)},
    wrong={"tanh GELU in one of 24 layers": lambda: FlaxDeep(24, nnx.gelu)},
)
