"""The reference: factorised space-time attention and a small U-Net around it. `flax_model.py` has it class by class.

Inside the model the channels come last, (b f h w c), so that both frameworks rearrange alike; at its ends stand torch's
images (b c h w) and videos (b c f h w).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from attend_torch import Attend

from .config import Config


class Conv(nn.Conv2d):
    """Over (b h w c). torch sees (b c h w) in channels-last memory, nothing is copied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rearrange(super().forward(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


class SpaceTimeConv(nn.Module):
    """(b f h w c): a convolution over space, then one over time, which an image skips.

    The one over time starts as the identity, so that a model of images goes on as one of videos.
    """

    def __init__(self, width_in: int, width: int, size: int, *, causal: bool) -> None:
        super().__init__()
        self.space = Conv(width_in, width, (size, size), padding=size // 2)
        self.before, self.after = (2, 0) if causal else (1, 1)
        self.time = Conv(width, width, (3, 1))
        nn.init.zeros_(self.time.weight).data[:, :, self.before, 0] = torch.eye(width)
        nn.init.zeros_(self.time.bias)

    def forward(self, x: torch.Tensor, *, video: bool) -> torch.Tensor:
        batch, height = x.shape[0], x.shape[2]
        x = self.space(rearrange(x, "b f h w c -> (b f) h w c"))
        x = rearrange(x, "(b f) h w c -> b f h w c", b=batch)
        if not video:
            return x
        x = rearrange(x, "b f h w c -> b f (h w) c")  # one of three frames by one pixel needs no transposition
        x = self.time(F.pad(x, (0, 0, 0, 0, self.before, self.after)))
        return rearrange(x, "b f (h w) c -> b f h w c", h=height)


class Linear32(nn.Linear):
    """In float32 at least, whatever the parameters are kept in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), self.weight.to(dtype), bias)


class PositionBias(nn.Module):
    """The continuous relative-position bias (heads, n, n) of a line or a grid: an MLP of signed log-spaced distances.

    float32 also in a 16-bit model. The last layer has no bias of its own: the softmax would not see it.
    """

    def __init__(self, axes: int, width: int, heads: int) -> None:
        super().__init__()
        self.enter = Linear32(axes, width)
        self.hidden = Linear32(width, width)
        self.leave = Linear32(width, heads, bias=False)

    def forward(self, *sizes: int) -> torch.Tensor:
        dtype, device = torch.promote_types(self.enter.weight.dtype, torch.float32), self.enter.weight.device
        lines = [torch.arange(size, dtype=dtype, device=device) for size in sizes]
        places = rearrange(torch.stack(torch.meshgrid(*lines, indexing="ij")), "axes ... -> (...) axes")
        distance = rearrange(places, "i axes -> i 1 axes") - rearrange(places, "j axes -> 1 j axes")
        distance = torch.sign(distance) * torch.log(torch.abs(distance) + 1)
        x = F.silu(self.enter(distance))
        x = F.silu(self.hidden(x))
        return rearrange(self.leave(x), "i j heads -> heads i j")


class Attention(nn.Module):
    """(b n c) to what is added to it, (b n c), at first zeros."""

    def __init__(self, width: int, config: Config, *, causal: bool = False, memory: int = 0) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads, self.memory = config.heads, memory
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        if memory:
            self.memory_key = nn.Parameter(torch.randn(config.heads, memory, config.head_dim))
            self.memory_value = nn.Parameter(torch.randn(config.heads, memory, config.head_dim))
        self.attend = Attend(flash=config.flash, causal="lower_right" if causal else False)
        self.out = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, x = x.shape[0], self.norm(x)
        q = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.heads)
        k = rearrange(self.key(x), "b n (h d) -> b h n d", h=self.heads)
        v = rearrange(self.value(x), "b n (h d) -> b h n d", h=self.heads)
        if self.memory:
            k = torch.cat([repeat(self.memory_key, "h m d -> b h m d", b=batch), k], 2)
            v = torch.cat([repeat(self.memory_value, "h m d -> b h m d", b=batch), v], 2)
            bias = F.pad(bias, (self.memory, 0))
        return self.out(rearrange(self.attend(q, k, v, bias), "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """(... c) to what is added to it."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, times * width)
        self.leave = nn.Linear(times * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(F.gelu(self.enter(self.norm(x))))


class SpaceTimeBlock(nn.Module):
    """(b f h w c): attention over the pixels of each frame, then over the frames of each pixel; an image skips time."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.space = Attention(width, config)
        self.space_bias = PositionBias(2, config.bias_width, config.heads)
        self.time = Attention(width, config, causal=config.causal, memory=config.memory)
        self.time_bias = PositionBias(1, config.bias_width, config.heads)
        self.feed_forward = FeedForward(width, config.feed_forward) if config.feed_forward else None

    def forward(self, x: torch.Tensor, *, video: bool) -> torch.Tensor:
        batch, frames, height, width = x.shape[:4]
        x = rearrange(x, "b f h w c -> (b f) (h w) c")
        x = x + self.space(x, self.space_bias(height, width))
        x = rearrange(x, "(b f) (h w) c -> b f h w c", b=batch, h=height)
        if video:
            x = rearrange(x, "b f h w c -> (b h w) f c")
            x = x + self.time(x, self.time_bias(frames))
            x = rearrange(x, "(b h w) f c -> b f h w c", b=batch, h=height)
        if self.feed_forward is not None:
            x = x + self.feed_forward(x)
        return x


class ResidualBlock(nn.Module):
    """(b f h w c) and an embedding (b e) of the timestep, which scales and shifts what is between two convolutions."""

    def __init__(self, width_in: int, width: int, config: Config) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width_in), nn.LayerNorm(width)
        self.conv1 = SpaceTimeConv(width_in, width, 3, causal=config.causal)
        self.conv2 = SpaceTimeConv(width, width, 3, causal=config.causal)
        self.timestep = nn.Linear(config.time_width, 2 * width)
        self.skip = nn.Linear(width_in, width) if width_in != width else None

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, *, video: bool) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)), video=video)
        scale, shift = rearrange(self.timestep(timestep), "b (two c) -> two b 1 1 1 c", two=2)
        h = self.norm2(h) * (scale + 1) + shift
        h = self.conv2(F.silu(h), video=video)
        return h + (x if self.skip is None else self.skip(x))


class Timestep(nn.Module):
    """(b), each from 0 to 1, to (b time_width): sines of 1 to 100 radians, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(timestep.dtype, torch.float32)
        rates = torch.linspace(0, math.log(100.0), self.width // 2, dtype=dtype, device=timestep.device).exp()
        angles = rearrange(timestep.to(dtype), "b -> b 1") * rates
        x = torch.cat([torch.sin(angles), torch.cos(angles)], -1).to(self.enter.weight.dtype)
        return F.silu(self.leave(F.silu(self.enter(x))))


class Level(nn.Module):
    """One stage of the U-Net: a residual block and, where `depth` is not 0, space-time blocks."""

    def __init__(self, width_in: int, width: int, config: Config, *, depth: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(width_in, width, config)
        self.blocks = nn.ModuleList([SpaceTimeBlock(width, config) for _ in range(depth)])

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, *, video: bool) -> torch.Tensor:
        x = self.residual(x, timestep, video=video)
        for block in self.blocks:
            x = block(x, video=video)
        return x


class UNet(nn.Module):
    """An image (b c h w) or a video (b c f h w) and timesteps (b) to a prediction in the image's or video's shape."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths, attends = config.widths, config.attends
        self.timestep = Timestep(config.time_width)
        self.enter = SpaceTimeConv(config.channels, widths[0], 3, causal=config.causal)
        self.down = nn.ModuleList([Level(w, w, config, depth=int(a)) for w, a in zip(widths, attends, strict=True)])
        self.shrink = nn.ModuleList([nn.Linear(4 * w, v) for w, v in pairwise(widths)])
        self.middle = Level(widths[-1], widths[-1], config, depth=config.depth)
        self.up = nn.ModuleList([Level(2 * w, w, config, depth=int(a)) for w, a in zip(widths, attends, strict=True)])
        self.grow = nn.ModuleList([nn.Linear(v, 4 * w) for w, v in pairwise(widths)])
        self.norm = nn.LayerNorm(widths[0])
        self.leave = SpaceTimeConv(widths[0], config.channels, 3, causal=config.causal)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.config.check_shape(tuple(x.shape))
        video = x.ndim == 5
        x = rearrange(x, "b c f h w -> b f h w c") if video else rearrange(x, "b c h w -> b 1 h w c")
        timestep = self.timestep(timestep)
        x = self.enter(x, video=video)
        skips = []
        for n, level in enumerate(self.down):
            if n > 0:
                x = self.shrink[n - 1](rearrange(x, "b f (h p) (w q) c -> b f h w (p q c)", p=2, q=2))
            x = level(x, timestep, video=video)
            skips.append(x)
        x = self.middle(x, timestep, video=video)
        for n, level in reversed(list(enumerate(self.up))):
            x = level(torch.cat([x, skips[n]], -1), timestep, video=video)
            if n > 0:
                x = rearrange(self.grow[n - 1](x), "b f h w (p q c) -> b f (h p) (w q) c", p=2, q=2)
        x = self.leave(F.silu(self.norm(x)), video=video)
        return rearrange(x, "b f h w c -> b c f h w") if video else rearrange(x, "b 1 h w c -> b c h w")
