"""Pairs of vision models: a ViT, a U-Net block with a skip and up-sampling, the video block's space-time attention.

parity run --pair examples/parity_vision.py
parity mutate --pair examples/parity_vision.py:vit
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from einops import rearrange
from flax import nnx
from torch import nn

import attend_jax
import attend_torch
from parity import Input, Pair

FEATURES, HEADS = 24, 3
Activation = Callable[[jax.Array], jax.Array]


def exact_gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


class TorchViT(nn.Module):
    """(b 3 16 16) to (b 10): patches of 4, a class token, learned positions."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, FEATURES, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, FEATURES))
        self.positions = nn.Parameter(torch.randn(1, 17, FEATURES))
        layer = nn.TransformerEncoderLayer(
            FEATURES, HEADS, 2 * FEATURES, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(FEATURES)
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = rearrange(self.patches(image), "b d h w -> b (h w) d")
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.layers(x))[:, 0])


class FlaxViTLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, activation: Activation, *, post_norm: bool) -> None:
        self.self_attn = nnx.MultiHeadAttention(HEADS, FEATURES, decode=False, rngs=rngs)
        self.norm1, self.norm2 = (nnx.LayerNorm(FEATURES, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.linear1 = nnx.Linear(FEATURES, 2 * FEATURES, rngs=rngs)
        self.linear2 = nnx.Linear(2 * FEATURES, FEATURES, rngs=rngs)
        self.activation, self.post_norm = activation, post_norm

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.post_norm:
            x = self.norm1(x + self.self_attn(x))
            return self.norm2(x + self.linear2(self.activation(self.linear1(x))))
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))


class FlaxViT(nnx.Module):
    """`as_conv`: the patches by a convolution, else by one product of rearranged pixels."""

    def __init__(
        self, depth: int, activation: Activation = exact_gelu, *, as_conv: bool = True, post_norm: bool = False,
        token_last: bool = False, columns_first: bool = False,
    ) -> None:  # fmt: skip
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, FEATURES, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, FEATURES)))
        self.positions = nnx.Param(jnp.zeros((1, 17, FEATURES)))
        self.layers = nnx.List([FlaxViTLayer(rngs, activation, post_norm=post_norm) for _ in range(depth)])
        self.norm = nnx.LayerNorm(FEATURES, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(FEATURES, 10, rngs=rngs)
        self.as_conv, self.token_last, self.columns_first = as_conv, token_last, columns_first

    def __call__(self, image: jax.Array) -> jax.Array:
        image = rearrange(image, "b c h w -> b h w c")
        order = "b h w d -> b (w h) d" if self.columns_first else "b h w d -> b (h w) d"
        if self.as_conv:
            x = self.patches(image)
        else:
            pixels = rearrange(image, "b (h p) (w q) c -> b h w (p q c)", p=4, q=4)
            kernel = rearrange(self.patches.kernel[...], "p q c d -> (p q c) d")
            x = jnp.dot(pixels, kernel) + self.patches.bias[...]
        x = rearrange(x, order)
        token = jnp.broadcast_to(self.token[...], (len(x), 1, FEATURES))
        x = jnp.concatenate([x, token] if self.token_last else [token, x], 1) + self.positions[...]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class TorchUNetBlock(nn.Module):
    """Down, and up again with a skip: strided and transposed convolutions, group norm, SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(2, channels)
        self.down = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1)
        self.leave = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = nn.functional.silu(self.norm(self.enter(x)))
        below = nn.functional.silu(self.down(skip))
        return x + self.leave(torch.cat([self.up(below), skip], 1))


class FlaxUNetBlock(nnx.Module):
    def __init__(
        self, channels: int, activation: Activation = nnx.silu, *, epsilon: float = 1e-5, groups: int = 2,
        skip_first: bool = False, residual: bool = True, padding: int = 1,
    ) -> None:  # fmt: skip
        rngs = nnx.Rngs(0)
        self.enter = nnx.Conv(channels, channels, (3, 3), padding=1, rngs=rngs)
        self.norm = nnx.GroupNorm(channels, num_groups=groups, epsilon=epsilon, rngs=rngs)
        before, after = ((1, 1), (1, 1)) if padding == 1 else ((2, 0), (2, 0))
        self.down = nnx.Conv(channels, 2 * channels, (4, 4), strides=2, padding=(before, after), rngs=rngs)
        self.up = nnx.ConvTranspose(
            2 * channels, channels, (4, 4), strides=2, padding=((2, 2), (2, 2)), transpose_kernel=True, rngs=rngs
        )
        self.leave = nnx.Conv(2 * channels, channels, (1, 1), rngs=rngs)
        self.activation, self.skip_first, self.residual = activation, skip_first, residual

    def __call__(self, x: jax.Array) -> jax.Array:
        x = rearrange(x, "b c h w -> b h w c")
        skip = self.activation(self.norm(self.enter(x)))
        below = self.activation(self.down(skip))
        both = [skip, self.up(below)] if self.skip_first else [self.up(below), skip]
        out = self.leave(jnp.concatenate(both, -1))
        return rearrange(x + out if self.residual else out, "b h w c -> b c h w")


class TorchVideoBlock(nn.Module):
    """(b c f h w): attention in space, then causal attention in time with a learned bias of relative positions."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.space_norm, self.time_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.space_qkv, self.time_qkv = (nn.Linear(channels, 3 * channels, bias=False) for _ in range(2))
        self.space_out, self.time_out = (nn.Linear(channels, channels, bias=False) for _ in range(2))
        self.time_bias = nn.Parameter(torch.randn(2, frames, frames))
        self.space, self.time = attend_torch.Attend(), attend_torch.Attend(causal=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.shape[3]
        x = rearrange(x, "b c f h w -> b f (h w) c")
        q, k, v = rearrange(self.space_qkv(self.space_norm(x)), "b f n (s h d) -> s (b f) h n d", s=3, h=2)
        out = self.space_out(rearrange(self.space(q, k, v), "(b f) h n d -> b f n (h d)", b=len(x)))
        x = x + out
        q, k, v = rearrange(self.time_qkv(self.time_norm(x)), "b f n (s h d) -> s (b n) h f d", s=3, h=2)
        out = self.time_out(rearrange(self.time(q, k, v, self.time_bias), "(b n) h f d -> b f n (h d)", b=len(x)))
        return rearrange(x + out, "b f (h w) c -> b c f h w", h=height)


class FlaxVideoBlock(nnx.Module):
    def __init__(
        self, channels: int, frames: int, *, causal: bool = True, implementation: str = "auto", biased: bool = True,
        heads_last: bool = False, bias_gradient: bool = True, epsilon: float = 1e-5,
    ) -> None:  # fmt: skip
        rngs = nnx.Rngs(0)
        self.space_norm, self.time_norm = (nnx.LayerNorm(channels, epsilon=epsilon, rngs=rngs) for _ in range(2))
        self.space_qkv, self.time_qkv = (
            nnx.Linear(channels, 3 * channels, use_bias=False, rngs=rngs) for _ in range(2)
        )
        self.space_out, self.time_out = (nnx.Linear(channels, channels, use_bias=False, rngs=rngs) for _ in range(2))
        self.time_bias = nnx.Param(jnp.zeros((2, frames, frames)))
        self.space = attend_jax.Attend(implementation=implementation)
        self.time = attend_jax.Attend(causal=causal, implementation=implementation)
        self.biased, self.bias_gradient = biased, bias_gradient
        self.split = "(d h s)" if heads_last else "(s h d)"

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height = x.shape[0], x.shape[3]
        bias = self.time_bias[...] if self.bias_gradient else jax.lax.stop_gradient(self.time_bias[...])
        x = rearrange(x, "b c f h w -> b f (h w) c")
        q, k, v = rearrange(self.space_qkv(self.space_norm(x)), f"b f n {self.split} -> s (b f) h n d", s=3, h=2)
        x = x + self.space_out(rearrange(self.space(q, k, v), "(b f) h n d -> b f n (h d)", b=batch))
        q, k, v = rearrange(self.time_qkv(self.time_norm(x)), f"b f n {self.split} -> s (b n) h f d", s=3, h=2)
        out = self.time(q, k, v, bias if self.biased else None)
        x = x + self.time_out(rearrange(out, "(b n) h f d -> b f n (h d)", b=batch))
        return rearrange(x, "b f (h w) c -> b c f h w", h=height)


vit = Pair(
    torch=lambda: TorchViT(3),
    flax=lambda: FlaxViT(3),
    inputs={"image": Input("b 3 16 16")},
    sizes={"b": 3},
    honest={"patches by one product": lambda: FlaxViT(3, as_conv=False)},
    wrong={
        "tanh GELU": lambda: FlaxViT(3, nnx.gelu),
        "norm after": lambda: FlaxViT(3, post_norm=True),
        "class token last": lambda: FlaxViT(3, token_last=True),
        "patches column by column": lambda: FlaxViT(3, columns_first=True),
    },
)
unet_block = Pair(
    torch=lambda: TorchUNetBlock(6),
    flax=lambda: FlaxUNetBlock(6),
    inputs={"x": Input("b 6 h w")},
    sizes={"b": 2, "h": (8, 6), "w": (6, 10)},
    honest={"SiLU by tanh": lambda: FlaxUNetBlock(6, lambda x: 0.5 * x * (1 + jnp.tanh(0.5 * x)))},
    wrong={
        "GELU for SiLU": lambda: FlaxUNetBlock(6, nnx.gelu),
        "epsilon of 1e-6": lambda: FlaxUNetBlock(6, epsilon=1e-6),
        "three groups": lambda: FlaxUNetBlock(6, groups=3),
        "skip before up": lambda: FlaxUNetBlock(6, skip_first=True),
        "no residual": lambda: FlaxUNetBlock(6, residual=False),
        "padding on one side": lambda: FlaxUNetBlock(6, padding=2),
    },
)
video_block = Pair(
    torch=lambda: TorchVideoBlock(16, 5),
    flax=lambda: FlaxVideoBlock(16, 5),
    inputs={"x": Input("b 16 5 h w")},
    sizes={"b": 2, "h": 3, "w": 4},
    weights=[("time_bias", "time_bias", "identity")],
    honest={"in blocks": lambda: FlaxVideoBlock(16, 5, implementation="blockwise")},
    wrong={
        "not causal": lambda: FlaxVideoBlock(16, 5, causal=False),
        "no bias": lambda: FlaxVideoBlock(16, 5, biased=False),
        "bias without gradient": lambda: FlaxVideoBlock(16, 5, bias_gradient=False),
        "heads inside out": lambda: FlaxVideoBlock(16, 5, heads_last=True),
        "epsilon of 1e-6": lambda: FlaxVideoBlock(16, 5, epsilon=1e-6),
    },
)
