"""How far a sum is off that is added up one term after the other, as inner loops of products and convolutions do."""

from __future__ import annotations

from typing import Any

import torch

from parity.montecarlo.noise import Noise

# The mean of (error / (u * |x|))² when x is rounded: uniform errors, and significands whose logarithm is uniform.
VARIANCE = 0.18
# Libraries that compute in 16 bits add up in float32,
FLOAT32 = 2.0**-24
# but XLA's gradient of what is broadcast (a bias) is a sum in 16 bits, in blocks: on a CPU of 30 to 1,200 terms.
BLOCK = 1024


def one_by_one(result: torch.Tensor, squares: torch.Tensor, unit: float, terms: int) -> torch.Tensor:
    """The deviation of a sum y of n terms with one accumulator, each partial sum of which is rounded by `unit`.

    For terms x in any order the squares of the partial sums add up to n*(y²/3 + sum(x²)/6) in the mean, as those of a
    Brownian bridge from 0 to y do; the variance is that, times u² and what u² stands for. torch's and XLA's products
    and convolutions measure 0.1 (long ones, which both block) to 1.0 of the deviation: `docs/sums.py`.
    """
    variance = (result.detach().abs().square() / 3 + squares.detach().abs() / 6) * (VARIANCE * terms)
    deviation = variance.sqrt().to(torch.float32).mul_(unit)
    return deviation.masked_fill_(~torch.isfinite(deviation), 0.0)


def accumulator(noise: Noise, func: Any, args: Any, number: int) -> tuple[float, int]:
    """The unit roundoff of what an op's result of that number is added up in, and how many terms that takes."""
    terms = terms_of(func, args, number)
    if noise.rounding.unit > FLOAT32 and _undoes_a_broadcast(func, args, number):
        return noise.rounding.unit, min(terms, BLOCK)
    return min(noise.rounding.unit, FLOAT32), terms


def _undoes_a_broadcast(func: Any, args: Any, number: int) -> bool:
    """The gradient of a bias, of a norm's scale, of positions: a sum that leaves the last axis, or a convolution's.

    Statistics over the last axis (norms, softmax) are no such sums: whoever computes them in 16 bits adds in 32.
    """
    name = func._schema.name.removeprefix("aten::")
    if name == "convolution_backward":
        return [place for place, wanted in enumerate(args[10]) if wanted][number] == 2
    if name != "sum" or len(args) < 2 or not isinstance(args[1], list | tuple):
        return False
    return bool(args[1]) and all(axis % args[0].ndim != args[0].ndim - 1 for axis in args[1])


def terms_of(func: Any, args: Any, number: int) -> int:
    """How many terms each element of an op's result of that number is the sum of, at most; 1 where it is not known."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("mm", "bmm", "mv", "dot", "vdot"):
        return int(args[0].shape[-1])
    if name in ("addmm", "addmv", "baddbmm", "addbmm"):
        return int(args[1].shape[-1])
    if name == "convolution":
        weight, transposed = args[1], args[6]
        return int(weight.numel() // max(1, weight.shape[1 if transposed else 0]))
    if name == "convolution_backward":
        gradient, weight, transposed = args[0], args[2], args[7]
        if [place for place, wanted in enumerate(args[10]) if wanted][number] == 0:
            return int(weight.numel() // max(1, weight.shape[0 if transposed else 1]))
        return int(gradient.numel() // max(1, gradient.shape[1]))
    if name in ("sum", "nansum", "mean", "trace"):
        axes = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) and args[1] else range(args[0].ndim)
        return int(torch.Size([args[0].shape[axis] for axis in axes]).numel())
    if name == "cumsum":
        return int(args[0].shape[args[1]]) if args[0].ndim else 1
    return 1
