"""Pairs of the video model: its space-time block and the whole small U-Net, videos and images, causal or not.

parity run --pair examples/parity_video.py
parity mutate --pair examples/parity_video.py:block_causal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import torch
from flax import nnx
from torch import nn
from video import flax_model, torch_model
from video.config import Config
from video.faults import FAULTS
from video.flax_model import Options

from parity import Input, Pair

# The block has eight heads of 64, as the model; the U-Net two levels, and blocks in each.
WIDTH = 16
BLOCK = Config(bias_width=8)
BOTH_WAYS = dataclasses.replace(BLOCK, causal=False, flash=True)
UNET = Config(
    channels=2, widths=(6, 10), attends=(False, False), heads=2, head_dim=8, bias_width=8, memory=3, time_width=8
)
UNET_SMALL = dataclasses.replace(UNET, channels=4, widths=(8,), attends=(False,))
UNET_BOTH_WAYS = dataclasses.replace(UNET, attends=(False, True), causal=False, memory=0, feed_forward=0)
UNET_SMALL_BOTH_WAYS = dataclasses.replace(UNET_SMALL, causal=False, memory=0, flash=True)
# What an offset in the MLP of a position bias adds is nearly the same for all keys, and the softmax does not see that.
# In the U-Net, where neighbours are more alike, 16 bits leave as little of what its weights add.
OFFSETS = ("d(*_bias.enter.bias)", "d(*_bias.hidden.bias)")
POSITIONS = ("d(*_bias.*)",)

# The faults that an image shows, and attention without causality.
IN_SPACE = ("bias-gradient", "bias-mirrored", "epsilon")


def awake(model: nn.Module) -> nn.Module:
    """Numbers for all weights that begin as zeros: no gradient would be seen behind them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def torch_block(config: Config) -> Callable[[], nn.Module]:
    return lambda: awake(torch_model.SpaceTimeBlock(WIDTH, config))


def torch_unet(config: Config) -> Callable[[], nn.Module]:
    return lambda: awake(torch_model.UNet(config))


def flax_block(config: Config, *, fault: str = "", **options: Any) -> Callable[[], nnx.Module]:
    return lambda: made(lambda: flax_model.SpaceTimeBlock(WIDTH, config, Options(**options), nnx.Rngs(0)), fault)


def flax_unet(config: Config, *, fault: str = "", **options: Any) -> Callable[[], nnx.Module]:
    return lambda: made(lambda: flax_model.UNet(config, Options(**options), rngs=nnx.Rngs(0)), fault)


def made(make: Callable[[], nnx.Module], fault: str) -> nnx.Module:
    model = flax_model.blank(make)  # the weights will be torch's
    if fault:
        FAULTS[fault](model)
    return model


def in_16bit(pair: Pair, untold: Sequence[str]) -> Pair:
    """The same in bfloat16, without the gradients that have next to nothing left in it."""
    words = "16 bits do not tell some gradients of the position biases: float32 judges them"
    return dataclasses.replace(pair, dtypes=("bfloat16",), differs=(words,), ignore=untold)


def small_unet(config: Config, axes: str, **sizes: int) -> Pair:
    """For 16 bits: more layers hide the attention's gradients behind their rounding, and of the sines of up to 100
    radians that a timestep of 1 has, 16 bits keep no phase."""
    inputs = {"x": Input(axes), "timestep": Input("b", range=(0, 0.05), differentiate=False)}
    return Pair(torch=torch_unet(config), flax=flax_unet(config), inputs=inputs, sizes=sizes)


def as_video(block: Any, x: Any) -> torch.Tensor | jax.Array:
    return block(x, video=True)


def as_image(block: Any, x: Any) -> torch.Tensor | jax.Array:
    return block(x, video=False)


block = Pair(
    torch=torch_block(BOTH_WAYS),
    flax=flax_block(BOTH_WAYS),
    torch_call=as_video,
    flax_call=as_video,
    inputs={"x": Input(f"b f h w {WIDTH}")},
    sizes={"b": 2, "f": 3, "h": 4, "w": 3},
    honest={"in blocks": flax_block(BOTH_WAYS, implementation="blockwise")},
    wrong={name: flax_block(BOTH_WAYS, fault=name) for name in IN_SPACE},
)
block_causal = Pair(
    torch=torch_block(BLOCK),
    flax=flax_block(BLOCK),
    torch_call=as_video,
    flax_call=as_video,
    inputs={"x": Input(f"b f h w {WIDTH}")},
    sizes={"b": 2, "f": 5, "h": 3, "w": 2},
    honest={"in blocks": flax_block(BLOCK, implementation="blockwise")},
    wrong={name: flax_block(BLOCK, fault=name) for name in FAULTS},
)
block_image = Pair(
    torch=torch_block(BLOCK),
    flax=flax_block(BLOCK),
    torch_call=as_image,
    flax_call=as_image,
    inputs={"x": Input(f"b 1 h w {WIDTH}")},
    sizes={"b": 2, "h": 3, "w": 5},
    wrong={name: flax_block(BLOCK, fault=name) for name in IN_SPACE},
)
unet = Pair(
    torch=torch_unet(UNET_BOTH_WAYS),
    flax=flax_unet(UNET_BOTH_WAYS),
    inputs={"x": Input("b 2 f h w"), "timestep": Input("b", range=(0, 1))},
    sizes={"b": 2, "f": 3, "h": 4, "w": 6},
    wrong={name: flax_unet(UNET_BOTH_WAYS, fault=name) for name in IN_SPACE},
)
unet_causal = Pair(
    torch=torch_unet(dataclasses.replace(UNET, depth=2)),
    flax=flax_unet(dataclasses.replace(UNET, depth=2)),
    inputs={"x": Input("b 2 f h w"), "timestep": Input("b", range=(0, 1))},
    sizes={"b": 2, "f": 5, "h": 4, "w": 2},
    honest={"a scan of rematerialised blocks": flax_unet(dataclasses.replace(UNET, depth=2), remat=True, scan=True)},
    wrong={name: flax_unet(dataclasses.replace(UNET, depth=2), fault=name) for name in FAULTS},
)
unet_image = Pair(
    torch=torch_unet(UNET),
    flax=flax_unet(UNET),
    inputs={"x": Input("b 2 h w"), "timestep": Input("b", range=(0, 1))},
    sizes={"b": 2, "h": 4, "w": 6},
    wrong={name: flax_unet(UNET, fault=name) for name in IN_SPACE},
)
block_16bit = in_16bit(block, OFFSETS)
block_causal_16bit = in_16bit(block_causal, OFFSETS)
block_image_16bit = in_16bit(block_image, OFFSETS)
unet_16bit = in_16bit(small_unet(UNET_SMALL_BOTH_WAYS, "b 4 f h w", b=2, f=5, h=4, w=3), POSITIONS)
unet_causal_16bit = in_16bit(small_unet(UNET_SMALL, "b 4 f h w", b=2, f=5, h=4, w=3), POSITIONS)
unet_image_16bit = in_16bit(small_unet(UNET_SMALL, "b 4 h w", b=4, h=4, w=6), POSITIONS)
