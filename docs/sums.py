"""How far sums are off on this machine, in standard deviations: u*sqrt(sum of squares), and one accumulator's.

    python docs/sums.py

One row an op and number of terms; for torch and for JAX the root mean square of error / u*sqrt(sum x²), then of error /
`parity.montecarlo.sums.one_by_one`. The first grows with the number of terms, the second stays at 1 or below: why the
spread of a sum is the larger of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

UNIT = 2.0**-24


def product(a: Any, b: Any) -> Any:
    return a @ b


def of_kernel(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    kernel = torch.zeros(g.shape[1], x.shape[1], 3, 3, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(torch.nn.functional.conv2d(x, kernel, padding=1), kernel, g)[0]


def of_kernel_in_jax(x: jax.Array, g: jax.Array) -> jax.Array:
    kernel = jax.numpy.zeros((g.shape[1], x.shape[1], 3, 3), x.dtype)
    return jax.vjp(lambda w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME"), kernel)[1](g)[0]


def over_rows(x: Any) -> Any:
    return x.sum(0)


def row(
    name: str, terms: int, inputs: list[np.ndarray], torch_op: Callable[..., Any], jax_op: Callable[..., Any]
) -> None:
    wide = [torch.tensor(x).double() for x in inputs]
    truth, squares = torch_op(*wide).numpy(), torch_op(*(x**2 for x in wide)).numpy()
    spreads = UNIT * np.sqrt(squares), UNIT * np.sqrt(0.18 * terms * (truth**2 / 3 + squares / 6))
    results = torch_op(*(torch.tensor(x) for x in inputs)).numpy(), np.asarray(jax.jit(jax_op)(*inputs))
    errors = [f"{np.sqrt(np.mean(((y - truth) / spread) ** 2)):8.2f}" for y in results for spread in spreads]
    print(f"{name:24}{terms:8}", *errors)


def of_a_bias(terms: int, features: int, draw: np.random.Generator) -> None:
    """XLA's gradient of a bias in bfloat16, which it adds up in bfloat16: as far off as blocks of how many terms?"""
    numbers = draw.standard_normal((terms, features)).astype(jax.numpy.bfloat16)
    wide = numbers.astype(np.float64)
    truth = wide.sum(0)
    actual = jax.jit(jax.linear_transpose(lambda bias: jax.numpy.broadcast_to(bias, wide.shape), numbers[0]))(numbers)
    error = np.asarray(actual[0]).astype(np.float64) - truth
    one = 2.0**-8 * np.sqrt(0.18 * terms * (truth**2 / 3 + (wide**2).sum(0) / 6))
    ratio = np.sqrt(np.mean(error**2) / np.mean(one**2))
    print(f"{'bias gradient, bfloat16':24}{terms:8} {'':17} {ratio:17.2f}   as of {ratio**2 * terms:.0f} terms")


def main() -> None:
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    print(f"{'':32} {'torch':>17} {'JAX':>17}")
    for terms in (24, 64, 256, 1024, 4096, 16384):
        row("product", terms, [normal(48, terms), normal(terms, 48)], product, product)
    for batch, height, width in ((2, 12, 10), (2, 16, 16), (8, 32, 32), (8, 65, 63)):
        inputs = [normal(batch, 16, height, width), normal(batch, 16, height, width)]
        row("gradient of a kernel", batch * height * width, inputs, of_kernel, of_kernel_in_jax)
    for terms in (24, 120, 1000, 30000):
        row("sum over rows", terms, [normal(terms, 512)], over_rows, over_rows)
    for terms in (24, 120, 1000, 30000):
        of_a_bias(terms, 256, draw)


if __name__ == "__main__":
    main()
