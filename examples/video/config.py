"""The sizes of the model, as plain data that both frameworks read."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of the U-Net.

    Args:
      channels: of the image or video that goes in and comes out.
      widths: channels of each level, from the finest; between two levels height and width are halved.
      attends: for each level, whether its two stages hold a space-time block; the middle always does.
      depth: of the stack of space-time blocks in the middle.
      heads, head_dim: of every attention.
      bias_width: of the hidden layers of the relative-position biases.
      memory: learned keys and values that stand before the frames in the attention over time, so that it has `memory`
        more keys than queries.
      time_width: of the timestep's embedding.
      causal: no frame sees a later one: attention and convolutions over time.
      flash: as `Attend` has it; the corner of the causal mask is named, so that it is the same in both modes.
      feed_forward: times the width of the hidden layer of a feed-forward after the attentions; 0 leaves it out.

    Raises:
      ValueError: the sizes cannot work: which, and why.

    >>> Config().widths
    (16, 32)
    """

    channels: int = 1
    widths: tuple[int, ...] = (16, 32)
    attends: tuple[bool, ...] = (False, True)
    depth: int = 1
    heads: int = 8
    head_dim: int = 64
    bias_width: int = 16
    memory: int = 2
    time_width: int = 32
    causal: bool = True
    flash: bool = False
    feed_forward: int = 2

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("`widths` needs one width a level, as (16, 32); got none")
        if len(self.attends) != len(self.widths):
            raise ValueError(
                f"`attends` says for each of the {len(self.widths)} levels of `widths` whether it attends; "
                f"got {len(self.attends)} of them"
            )
        for name in ("channels", "depth", "heads", "head_dim", "bias_width", "time_width", "widths"):
            sizes = getattr(self, name)
            for size in sizes if isinstance(sizes, tuple) else (sizes,):
                if size < 1:
                    raise ValueError(f"`{name}` must be at least 1; got {sizes}")
        for name in ("memory", "feed_forward"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more; got {getattr(self, name)}")
        if self.time_width % 2:
            raise ValueError(f"`time_width` is one half sines and one half cosines: even; got {self.time_width}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where an image (b c h w) or a video (b c f h w) of this shape cannot be fed."""
        if len(shape) not in (4, 5):
            raise ValueError(f"expected an image (b c h w) or a video (b c f h w); got the shape {shape}")
        if shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels on axis 1, as `channels` says; got the shape {shape}")
        halved = 2 ** (len(self.widths) - 1)
        if shape[-2] % halved or shape[-1] % halved:
            raise ValueError(
                f"height and width are halved {len(self.widths) - 1} times, once between two of the widths "
                f"{self.widths}: both must be multiples of {halved}; got {shape[-2]} and {shape[-1]}"
            )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How it is trained: AdamW with a linear warm-up, gradients clipped by their global norm.

    Args:
      steps, batch, frames, size: that many steps, each on `batch` videos of `frames` frames of `size` x `size` pixels.
      rate: of learning, reached after `warm_up` steps.
      betas, epsilon, decay: AdamW's. optax and torch differ in what they take the decay to be where nobody says.
      clip: the largest global norm.
      early: that many of the first steps must agree to rounding.

    Raises:
      ValueError: the numbers cannot work: which, and why.

    >>> [round(Recipe(rate=0.1, warm_up=4).rate_at(step), 3) for step in range(6)]
    [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    """

    steps: int = 300
    batch: int = 4
    frames: int = 5
    size: int = 16
    rate: float = 2e-3
    warm_up: int = 20
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    decay: float = 1e-2
    clip: float = 1.0
    early: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "warm_up", "early"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}")
        if self.size < 4:
            raise ValueError(f"`size` must be at least 4 pixels, for a shape to move in; got {self.size}")
        if self.early > self.steps:
            raise ValueError(
                f"the first {self.early} steps are to agree to rounding, so `steps` must be {self.early} or more; "
                f"got {self.steps}"
            )

    def rate_at(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.warm_up)

    def check(self, config: Config) -> None:
        """Raises ValueError where the model cannot take these videos."""
        config.check_shape((self.batch, config.channels, self.frames, self.size, self.size))
