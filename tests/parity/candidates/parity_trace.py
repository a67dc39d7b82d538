"""Ports of a stack of blocks, each wrong in one place, and honest ones that are made otherwise than torch's."""

from __future__ import annotations

import functools

import jax
import torch
from flax import linen, nnx
from torch import nn

from parity import Input, Pair

WIDTH = 12


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(self.out(nn.functional.gelu(self.mix(self.norm(x)))))


class Torch(nn.Module):
    def __init__(self, block=TorchBlock) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class NoBias(nnx.Linear):
    def __call__(self, x):
        return x @ self.kernel[...]


class Block(nnx.Module):
    approximate, linear = False, nnx.Linear

    def __init__(self, rngs, epsilon=1e-5) -> None:
        self.norm = nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs)
        self.mix = self.linear(WIDTH, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(self.out(nnx.gelu(self.mix(self.norm(x)), approximate=self.approximate)))


class Tanh(Block):
    approximate = True


class Defaults(Block):
    def __call__(self, x):
        return x + self.drop(self.out(nnx.gelu(self.mix(self.norm(x)))))


class Unbiased(Block):
    linear = NoBias


class Scaled(Block):
    def __call__(self, x):
        return x + 1.001 * (super().__call__(x) - x)


class Louder(nnx.Linear):
    def __call__(self, x):
        return 1.01 * super().__call__(x)


class Doubled(Block):
    def __init__(self, rngs) -> None:
        super().__init__(rngs)
        self.out = Louder(WIDTH, WIDTH, rngs=rngs)


class Stopped(Block):
    def __call__(self, x):
        return jax.lax.stop_gradient(x) + super().__call__(x) - x


class Frozen(nnx.Linear):
    def __call__(self, x):
        return x @ jax.lax.stop_gradient(self.kernel[...]) + self.bias[...]


class FrozenWeight(Block):
    linear = Frozen


class Jitted(Block):
    @nnx.jit
    def __call__(self, x):
        return x + self.out(nnx.gelu(self.mix(self.norm(x)), approximate=True))


class Raises(Block):
    def __call__(self, x):
        return super().__call__(x) @ x


class Flax(nnx.Module):
    """`odd` is the second of its three blocks."""

    def __init__(self, odd=Block) -> None:
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([Block(rngs), odd(rngs), Block(rngs)])
        self.head = nnx.Linear(WIDTH, 5, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Outside(Flax):
    """The last block's output is scaled between it and the head: no block is wrong."""

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x * 1.01)


class Branch(Block):
    def __call__(self, x):
        return self.drop(self.out(nnx.gelu(self.mix(self.norm(x)), approximate=False)))


class Residual(Flax):
    """Right: the residual is the model's business here, and the block's in torch."""

    def __init__(self) -> None:
        super().__init__()
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([Branch(rngs) for _ in range(3)])

    def __call__(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class LinenBlock(linen.Module):
    epsilon: float = 1e-5

    @linen.compact
    def __call__(self, x):
        y = linen.Dense(WIDTH, name="mix")(linen.LayerNorm(epsilon=self.epsilon, name="norm")(x))
        y = linen.Dense(WIDTH, name="out")(linen.gelu(y, approximate=False))
        return x + linen.Dropout(0.1, deterministic=True, name="drop")(y)


class Linen(linen.Module):
    epsilon: float = 1e-5

    def setup(self):
        self.blocks = [LinenBlock(), LinenBlock(self.epsilon), LinenBlock()]
        self.head = linen.Dense(5)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class TorchShared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = TorchBlock(), nn.Linear(WIDTH, 5)

    def forward(self, x):
        return self.head(self.block(self.block(x)))


class Shared(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.block, self.head = Block(rngs, epsilon=1e-6), nnx.Linear(WIDTH, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block(self.block(x)))


class TorchConvs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 6, 3, padding=1, stride=2)
        self.third = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.third(self.act(self.second(self.act(self.first(x)))))


class Convs(nnx.Module):
    def __init__(self, padding=1) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(3, 6, (3, 3), padding=1, rngs=rngs)
        self.second = nnx.Conv(6, 6, (3, 3), padding=padding, strides=2, rngs=rngs)
        self.third = nnx.Conv(6, 4, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        return self.third(nnx.relu(self.second(nnx.relu(self.first(x))))).transpose(0, 3, 1, 2)


class Randomly(Torch):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


def pair(odd=Block, flax=None, torch=Torch, **options):
    flax = flax or functools.partial(Flax, odd)
    return Pair(torch=torch, flax=flax, inputs={"x": Input("b n 12")}, sizes={"b": 2, "n": 3}, **options)


def convs(padding):
    return Pair(
        torch=TorchConvs, flax=lambda: Convs(padding), inputs={"x": Input("b 3 h w")}, sizes={"b": 2, "h": 6, "w": 6}
    )


right, residual = pair(), pair(flax=Residual)
epsilon = pair(lambda rngs: Block(rngs, epsilon=1e-6))
tanh, defaults, unbiased, scaled, stopped = map(pair, (Tanh, Defaults, Unbiased, Scaled, Stopped))
frozen, jitted, raises, doubled = map(pair, (FrozenWeight, Jitted, Raises, Doubled))
outside = pair(flax=Outside)
transposed = pair(
    weights=[("blocks.1.mix.weight", "blocks.1.mix.kernel", "reshape"), ("blocks.1.mix.bias", "blocks.1.mix.bias")]
)
shared = pair(flax=Shared, torch=TorchShared)
linen_right, linen_epsilon = pair(flax=Linen), pair(flax=lambda: Linen(1e-6))
convs_right, padding, smaller = convs(1), convs("SAME"), convs(0)
random = pair(torch=Randomly)
