"""The port: `torch_model.py`, class by class, in flax.nnx on `attend_jax`.

What is Flax's own: `dtype` to compute in and `param_dtype` to keep weights in (mixed precision), `remat` to compute a
block anew on the way back instead of keeping its activations, and `scan` to compile a stack of blocks once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx

from attend_jax import Attend

from .config import Config
from .flax_linear import Linear

Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Options:
    """What only the Flax side has.

    Args:
      dtype: to compute in; None means that of inputs and weights together. The position biases are float32 at least.
      param_dtype: to keep the weights in.
      remat: a space-time block keeps nothing but its input for the way back.
      scan: a stack of space-time blocks is compiled once and run with each one's weights.
      implementation: of `Attend`.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    remat: bool = False
    scan: bool = False
    implementation: str = "auto"

    @property
    def dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class LayerNorm(nnx.LayerNorm):
    """With torch's epsilon, and the variance that does not lose the digits that E[x²] - E[x]² does."""

    def __init__(self, width: int, options: Options, rngs: nnx.Rngs) -> None:
        super().__init__(width, epsilon=1e-5, use_fast_variance=False, **options.dtypes, rngs=rngs)


class SpaceTimeConv(nnx.Module):
    """(b f h w c): a convolution over space, then one over time, which an image skips.

    The one over time starts as the identity, so that a model of images goes on as one of videos.
    """

    def __init__(self, width_in: int, width: int, size: int, *, causal: bool, options: Options, rngs: nnx.Rngs) -> None:
        self.space = nnx.Conv(width_in, width, (size, size), padding=size // 2, **options.dtypes, rngs=rngs)
        before, after = (2, 0) if causal else (1, 1)
        self.time = nnx.Conv(
            width, width, (3, 1), padding=((before, after), (0, 0)), kernel_init=identity(before), **options.dtypes,
            rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: jax.Array, *, video: bool) -> jax.Array:
        batch, height = x.shape[0], x.shape[2]
        x = self.space(rearrange(x, "b f h w c -> (b f) h w c"))
        x = rearrange(x, "(b f) h w c -> b f h w c", b=batch)
        if not video:
            return x
        x = rearrange(x, "b f h w c -> b f (h w) c")  # one of three frames by one pixel needs no transposition
        x = self.time(x)
        return rearrange(x, "b f (h w) c -> b f h w c", h=height)


def identity(frame: int) -> nnx.Initializer:
    """A kernel (frames, 1, channels, channels) that passes on one of its frames."""

    def init(_: jax.Array, shape: tuple[int, ...], dtype: Any, *__: Any) -> jax.Array:
        return jnp.zeros(shape, dtype).at[frame, 0].set(jnp.eye(shape[2], dtype=dtype))

    return init


class PositionBias(nnx.Module):
    """The continuous relative-position bias (heads, n, n) of a line or a grid: an MLP of signed log-spaced distances.

    float32 also in a 16-bit model. The last layer has no bias of its own: the softmax would not see it.
    """

    def __init__(self, axes: int, width: int, heads: int, options: Options, rngs: nnx.Rngs) -> None:
        # With dtype=None a float32 input and 16-bit weights are computed in float32.
        self.enter = Linear(axes, width, param_dtype=options.param_dtype, rngs=rngs)
        self.hidden = Linear(width, width, param_dtype=options.param_dtype, rngs=rngs)
        self.leave = Linear(width, heads, use_bias=False, param_dtype=options.param_dtype, rngs=rngs)

    def __call__(self, *sizes: int) -> jax.Array:
        lines = [jnp.arange(size, dtype=jnp.float32) for size in sizes]
        places = rearrange(jnp.stack(jnp.meshgrid(*lines, indexing="ij")), "axes ... -> (...) axes")
        distance = rearrange(places, "i axes -> i 1 axes") - rearrange(places, "j axes -> 1 j axes")
        distance = jnp.sign(distance) * jnp.log(jnp.abs(distance) + 1)
        x = nnx.silu(self.enter(distance))
        x = nnx.silu(self.hidden(x))
        return rearrange(self.leave(x), "i j heads -> heads i j")


class Attention(nnx.Module):
    """(b n c) to what is added to it, (b n c), at first zeros."""

    def __init__(
        self, width: int, config: Config, *, causal: bool = False, memory: int = 0, options: Options, rngs: nnx.Rngs
    ) -> None:
        inner = config.heads * config.head_dim
        self.heads, self.memory = config.heads, memory
        self.norm = LayerNorm(width, options, rngs)
        self.query = Linear(width, inner, use_bias=False, **options.dtypes, rngs=rngs)
        self.key = Linear(width, inner, use_bias=False, **options.dtypes, rngs=rngs)
        self.value = Linear(width, inner, use_bias=False, **options.dtypes, rngs=rngs)
        if memory:
            shape = (config.heads, memory, config.head_dim)
            self.memory_key = nnx.Param(jax.random.normal(rngs.params(), shape, options.param_dtype))
            self.memory_value = nnx.Param(jax.random.normal(rngs.params(), shape, options.param_dtype))
        self.attend = Attend(
            flash=config.flash, causal="lower_right" if causal else False, implementation=options.implementation
        )
        self.out = Linear(inner, width, use_bias=False, kernel_init=nnx.initializers.zeros, **options.dtypes, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        batch, x = x.shape[0], self.norm(x)
        q = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.heads)
        k = rearrange(self.key(x), "b n (h d) -> b h n d", h=self.heads)
        v = rearrange(self.value(x), "b n (h d) -> b h n d", h=self.heads)
        if self.memory:
            memory_key, memory_value = (m[...].astype(q.dtype) for m in (self.memory_key, self.memory_value))
            k = jnp.concatenate([repeat(memory_key, "h m d -> b h m d", b=batch), k], 2)
            v = jnp.concatenate([repeat(memory_value, "h m d -> b h m d", b=batch), v], 2)
            bias = jnp.pad(bias, ((0, 0), (0, 0), (self.memory, 0)))
        return self.out(rearrange(self.attend(q, k, v, bias), "b h n d -> b n (h d)"))


class FeedForward(nnx.Module):
    """(... c) to what is added to it."""

    def __init__(self, width: int, times: int, options: Options, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(width, options, rngs)
        self.enter = Linear(width, times * width, **options.dtypes, rngs=rngs)
        self.leave = Linear(times * width, width, **options.dtypes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.leave(nnx.gelu(self.enter(self.norm(x)), approximate=False))


class SpaceTimeBlock(nnx.Module):
    """(b f h w c): attention over the pixels of each frame, then over the frames of each pixel; an image skips time."""

    def __init__(self, width: int, config: Config, options: Options, rngs: nnx.Rngs) -> None:
        self.space = Attention(width, config, options=options, rngs=rngs)
        self.space_bias = PositionBias(2, config.bias_width, config.heads, options, rngs)
        self.time = Attention(width, config, causal=config.causal, memory=config.memory, options=options, rngs=rngs)
        self.time_bias = PositionBias(1, config.bias_width, config.heads, options, rngs)
        self.feed_forward = FeedForward(width, config.feed_forward, options, rngs) if config.feed_forward else None

    def __call__(self, x: jax.Array, *, video: bool) -> jax.Array:
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


class ResidualBlock(nnx.Module):
    """(b f h w c) and an embedding (b e) of the timestep, which scales and shifts what is between two convolutions."""

    def __init__(self, width_in: int, width: int, config: Config, options: Options, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = LayerNorm(width_in, options, rngs), LayerNorm(width, options, rngs)
        self.conv1 = SpaceTimeConv(width_in, width, 3, causal=config.causal, options=options, rngs=rngs)
        self.conv2 = SpaceTimeConv(width, width, 3, causal=config.causal, options=options, rngs=rngs)
        self.timestep = Linear(config.time_width, 2 * width, **options.dtypes, rngs=rngs)
        self.skip = Linear(width_in, width, **options.dtypes, rngs=rngs) if width_in != width else None

    def __call__(self, x: jax.Array, timestep: jax.Array, *, video: bool) -> jax.Array:
        h = self.conv1(nnx.silu(self.norm1(x)), video=video)
        scale, shift = rearrange(self.timestep(timestep), "b (two c) -> two b 1 1 1 c", two=2)
        h = self.norm2(h) * (scale + 1) + shift
        h = self.conv2(nnx.silu(h), video=video)
        return h + (x if self.skip is None else self.skip(x))


class Timestep(nnx.Module):
    """(b), each from 0 to 1, to (b time_width): sines of 1 to 100 radians, then an MLP."""

    def __init__(self, width: int, options: Options, rngs: nnx.Rngs) -> None:
        self.width, self.dtype = width, options.dtype
        self.enter = Linear(width, width, **options.dtypes, rngs=rngs)
        self.leave = Linear(width, width, **options.dtypes, rngs=rngs)

    def __call__(self, timestep: jax.Array) -> jax.Array:
        rates = jnp.exp(jnp.linspace(0, math.log(100.0), self.width // 2, dtype=jnp.float32))
        angles = rearrange(timestep.astype(jnp.float32), "b -> b 1") * rates
        x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(self.dtype or self.enter.kernel.dtype)
        return nnx.silu(self.leave(nnx.silu(self.enter(x))))


class Level(nnx.Module):
    """One stage of the U-Net: a residual block and, where `depth` is not 0, space-time blocks."""

    def __init__(
        self, width_in: int, width: int, config: Config, *, depth: int, options: Options, rngs: nnx.Rngs
    ) -> None:
        self.residual = ResidualBlock(width_in, width, config, options, rngs)
        self.blocks = nnx.List([SpaceTimeBlock(width, config, options, rngs) for _ in range(depth)])
        self.remat, self.scan = options.remat, options.scan

    def __call__(self, x: jax.Array, timestep: jax.Array, *, video: bool) -> jax.Array:
        x = self.residual(x, timestep, video=video)
        if self.scan and len(self.blocks) > 1:
            return self.scanned(x, video=video)

        def run(block: SpaceTimeBlock, x: jax.Array) -> jax.Array:
            return block(x, video=video)

        run = nnx.remat(run) if self.remat else run
        for block in self.blocks:
            x = run(block, x)
        return x

    def scanned(self, x: jax.Array, *, video: bool) -> jax.Array:
        """The same, compiled once for all blocks. Their weights are stacked here, and not kept so: each keeps the name
        and shape that it has in torch and in every checkpoint."""
        graph, weights = nnx.graphdef(self.blocks[0]), [nnx.state(block) for block in self.blocks]

        def run(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graph, layer)(x, video=video), None

        stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *weights)
        return jax.lax.scan(jax.checkpoint(run) if self.remat else run, x, stacked)[0]


class UNet(nnx.Module):
    """An image (b c h w) or a video (b c f h w) and timesteps (b) to a prediction in the image's or video's shape."""

    def __init__(self, config: Config, options: Options = Options(), *, rngs: nnx.Rngs) -> None:
        self.config = config
        widths, attends = config.widths, config.attends
        given = {"options": options, "rngs": rngs}
        self.timestep = Timestep(config.time_width, **given)
        self.enter = SpaceTimeConv(config.channels, widths[0], 3, causal=config.causal, **given)
        self.down = nnx.List([Level(w, w, config, depth=int(a), **given) for w, a in zip(widths, attends, strict=True)])
        halved, linear = list(pairwise(widths)), {**options.dtypes, "rngs": rngs}
        self.shrink = nnx.List([Linear(4 * w, v, **linear) for w, v in halved])
        self.middle = Level(widths[-1], widths[-1], config, depth=config.depth, **given)
        self.up = nnx.List(
            [Level(2 * w, w, config, depth=int(a), **given) for w, a in zip(widths, attends, strict=True)]
        )
        self.grow = nnx.List([Linear(v, 4 * w, **linear) for w, v in halved])
        self.norm = LayerNorm(widths[0], **given)
        self.leave = SpaceTimeConv(widths[0], config.channels, 3, causal=config.causal, **given)

    def __call__(self, x: jax.Array, timestep: jax.Array) -> jax.Array:
        self.config.check_shape(x.shape)
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
            x = level(jnp.concatenate([x, skips[n]], -1), timestep, video=video)
            if n > 0:
                x = rearrange(self.grow[n - 1](x), "b f h w (p q c) -> b f (h p) (w q) c", p=2, q=2)
        x = self.leave(nnx.silu(self.norm(x)), video=video)
        return rearrange(x, "b f h w c -> b c f h w") if video else rearrange(x, "b 1 h w c -> b c h w")


def blank(make: Callable[[], Module]) -> Module:
    """The module with zeros for its weights, for those that come from elsewhere: nothing is drawn, nothing compiled.

    >>> blank(lambda: UNet(Config(), rngs=nnx.Rngs(0))).norm.scale.shape
    (16,)
    """
    graph, weights = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), weights))
