"""Steps of a port, got wrong: what the rows of wrong.py are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parity.mutants.mutant import Step
from parity.mutants.port import Port


def rounded(x: Tensor, bits: int) -> Tensor:
    """x with a significand of `bits` bits, as a gradient sees through it."""
    mantissa, exponent = torch.frexp(x.detach())
    near = torch.ldexp(torch.round(mantissa * 2.0**bits), exponent - bits)
    return x + (near - x.detach())


class Reduced(torch.autograd.Function):
    """a @ b with factors of `bits` bits, in the forward pass, the backward pass or both."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, forward_bits: int, backward_bits: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.bits = backward_bits
        return rounded(a, forward_bits) @ rounded(b, forward_bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        a, b, g = (rounded(x, ctx.bits) for x in (*ctx.saved_tensors, grads[0]))
        return g @ b.mT, a.mT @ g, None, None


def products(forward_bits: int, backward_bits: int) -> dict[str, Step]:
    def product(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = Reduced.apply(a, b, forward_bits, backward_bits)
        return result

    return {
        "scores": lambda self, q, k, v: product(q, k.mT) * self.factor(q, v),
        "contract": lambda self, weights, v: product(weights, v),
    }


class Backward(torch.autograd.Function):
    """The identity, with its gradient changed by a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.change(grads[0]), None


def backward(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    result: Tensor = Backward.apply(x, change)
    return result


def arranged(change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> dict[str, Step]:
    """A step that changes query, key and value after they are arranged."""
    return {"arrange": lambda self, q, k, v: change(*Port.arrange(self, q, k, v))}


def bias(change: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """A step that changes the bias before it is added."""
    return {"add_bias": lambda self, scores, bias, head_dim: scores + change(bias)}


def output(change: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """A step that changes the output before it is cast and laid out."""
    return {"contract": lambda self, weights, v: change(weights @ v)}


def square_transposed(x: Tensor) -> Tensor:
    return x.mT if x.ndim > 1 and x.shape[-1] == x.shape[-2] else x


def first(axis: int) -> Callable[[Tensor], Tensor]:
    """The first slice of an axis, counted from the last, in place of all."""
    return lambda x: x.narrow(axis, 0, min(1, x.shape[axis])).expand_as(x) if x.ndim >= -axis else x


def at(x: Tensor, index: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> Tensor:
    """x with the elements at `index` changed."""
    if 0 in x.shape:
        return x
    hit = torch.zeros_like(x, dtype=torch.bool)
    hit[index] = True
    return torch.where(hit, change(x), x)


def ignored_keys(start: int) -> dict[str, Step]:
    """Keys from `start` on are never attended."""

    def allowed(self: Port, q_len: int, kv_len: int, mask: Tensor | None) -> Tensor | None:
        keep = Port.allowed(self, q_len, kv_len, mask)
        if kv_len <= start:
            return keep
        near = torch.arange(kv_len) < start
        return near.expand(q_len, kv_len) if keep is None else keep & near

    return {"allowed": allowed}


def zero_empty_rows(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    weights = filled.softmax(-1)
    return weights if keep is None else weights * keep.any(-1, keepdim=True)


def odd_keys(self: Port, q_len: int, kv_len: int, mask: Tensor | None) -> Tensor | None:
    keep = Port.allowed(self, q_len, kv_len, mask)
    if kv_len % 2 == 0 or kv_len < 2:
        return keep
    even = torch.arange(kv_len) < kv_len - 1
    return even.expand(q_len, kv_len) if keep is None else keep & even


def no_delta(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
    """exp(s) over a constant: the normaliser gets no gradient."""
    top = filled.amax(-1, keepdim=True).detach()
    exp = (filled - top).exp()
    return exp / exp.sum(-1, keepdim=True).detach()


def over(axis: int) -> dict[str, Step]:
    return {"softmax": lambda self, filled, keep: filled.softmax(axis)}


def softmax(of: Callable[[Tensor], Tensor]) -> dict[str, Step]:
    """exp and sum with another formula; `of` gets the scores minus their largest."""

    def softmax(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
        if filled.shape[-1] == 0:  # no keys have no largest
            return filled
        return of(filled - filled.amax(-1, keepdim=True).detach())

    return {"softmax": softmax}


def normalised(exp: Tensor, extra: float = 0.0) -> Tensor:
    return exp / (exp.sum(-1, keepdim=True) + extra)


def native(change: Callable[[Port, Tensor], Tensor]) -> dict[str, Step]:
    """Another way to draw the kept weights; a mask from outside is used as it is."""
    return {"kept": lambda self, weights, mask: change(self, weights) if mask is None else mask}


def half_group(x: Tensor, heads: int) -> Tensor:
    """Only the first query head of a group sends a gradient to the shared key head."""
    group = heads // max(x.shape[1], 1)
    if group < 2:
        return x
    parts = [x, *(x.detach() for _ in range(group - 1))]
    return torch.stack(parts, dim=2).flatten(1, 2)


def causal(offset: Callable[[Port, int, int], int]) -> dict[str, Step]:
    return {"offset": offset}


def query_gradient_unscaled(self: Port, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = Port.arrange(self, q, k, v)
    factor = self.factor(q, v) or 1.0
    return backward(q, lambda g: g / factor), k, v


def first_batch_only(self: Port, scores: Tensor, bias: Tensor, head_dim: int) -> Tensor:
    """The bias' gradient comes from the first batch only."""
    late = bias.detach() if bias.ndim < 4 or bias.shape[0] == 1 else bias[1:].detach()
    first = bias if bias.ndim < 4 else bias[:1]
    return torch.cat([scores[:1] + first, scores[1:] + late])


class LateBias:
    """Remembers the bias and adds it to the weights."""

    @staticmethod
    def add_bias(self: Port, scores: Tensor, bias: Tensor, head_dim: int) -> Tensor:
        self.__dict__["late_bias"] = bias
        return scores

    @staticmethod
    def softmax(self: Port, filled: Tensor, keep: Tensor | None) -> Tensor:
        weights: Tensor = filled.softmax(-1) + self.__dict__.pop("late_bias", 0)
        return weights


def refuse() -> None:
    raise NotImplementedError("query and key lengths must be equal")
