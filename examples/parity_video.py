"""Pairs of the video model: its space-time block and the whole small U-Net, videos and images, causal or not.

parity run --pair examples/parity_video.py
parity mutate --pair examples/parity_video.py:block_causal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
UNET_SMALL = dataclasses.replace(UNET, widths=(8,), attends=(False,))
UNET_BOTH_WAYS = dataclasses.replace(UNET, attends=(False, True), causal=False, memory=0, feed_forward=0)
# The gradients of a bias' rows add up to nothing, and what is left of their sum in 16 bits is no measure.
UNTOLD: dict[str, Any] = {
    "differs": ["16 bits do not tell the gradients of the position biases' weights: float32 judges them"],
    "ignore": ["d(*_bias.*)"],
}


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
    wrong={name: flax_block(BOTH_WAYS, fault=name) for name in ("bias-gradient", "bias-mirrored", "epsilon")},
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
    wrong={"bias-gradient": flax_block(BLOCK, fault="bias-gradient")},
)
unet = Pair(
    torch=torch_unet(UNET_BOTH_WAYS),
    flax=flax_unet(UNET_BOTH_WAYS),
    inputs={"x": Input("b 2 f h w"), "timestep": Input("b", range=(0, 1))},
    sizes={"b": 2, "f": 3, "h": 4, "w": 6},
    wrong={"bias-gradient": flax_unet(UNET_BOTH_WAYS, fault="bias-gradient")},
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
)
block_16bit = Pair(
    torch=torch_block(BLOCK),
    flax=flax_block(BLOCK),
    torch_call=as_video,
    flax_call=as_video,
    inputs={"x": Input(f"b f h w {WIDTH}")},
    sizes={"b": 1, "f": 5, "h": 2, "w": 2},
    dtypes=("bfloat16",),
    **UNTOLD,
)
unet_16bit = Pair(
    torch=torch_unet(UNET_SMALL),
    flax=flax_unet(UNET_SMALL),
    inputs={"x": Input("b 2 f h w"), "timestep": Input("b", range=(0, 0.05), differentiate=False)},
    sizes={"b": 1, "f": 3, "h": 2, "w": 3},
    dtypes=("bfloat16",),
    **UNTOLD,
)
