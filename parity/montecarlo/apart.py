"""Ops that use an input twice inside, taken apart into simple ones, so that each use has its own noise.

Each function has its ATen op's own signature (native_functions.yaml) and runs under the mode. What is not in `TABLE`
torch takes apart itself: `noise.py` asks `torch._decomp`, which knows the losses and the rarer activations.
"""

# ruff: noqa: ARG001 (the signatures are ATen's)

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from parity.montecarlo import apart_fused, apart_norms


def rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule that runs a function in place of the op."""

    def apart(noise: Any, _func: Any, args: Any, kwargs: Any) -> Any:
        with noise:
            return function(*args, **kwargs)

    return apart


def softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    weights = torch.exp(x - x.amax(dim, keepdim=True))
    return weights / weights.sum(dim, keepdim=True)


def log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def logsumexp(x: Tensor, dim: list[int] | int, keepdim: bool = False) -> Tensor:
    top = x.amax(dim, keepdim=True)
    top = torch.nan_to_num(top, nan=math.nan, posinf=0.0, neginf=0.0)
    total = (x - top).exp().sum(dim, keepdim=True).log() + top
    if keepdim:
        return total
    axes = [dim] if isinstance(dim, int) else sorted((axis % max(x.ndim, 1) for axis in dim), reverse=True)
    for axis in axes:
        total = total.squeeze(axis)
    return total


def softmax_backward(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    # Two products of grad and y, not one used twice: where a softmax saturates these cancel, and fused attention takes
    # the sum from the output instead (delta), whose error has nothing to do with that of the product.
    return grad * y - y * (grad * y).sum(dim, keepdim=True)


def log_softmax_backward(grad: Tensor, y: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    return grad - y.exp() * grad.sum(dim, keepdim=True)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def sigmoid_backward(grad: Tensor, y: Tensor) -> Tensor:
    return grad * (y * (1 - y))


def tanh_backward(grad: Tensor, y: Tensor) -> Tensor:
    return grad * (1 - y * y)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return grad * (gate * (1 + x * (1 - gate)))


SQRT_HALF, SQRT_2_OVER_PI, CUBIC = math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(SQRT_2_OVER_PI * (x + CUBIC * (x * x * x))))
    return 0.5 * x * (1 + torch.erf(x * SQRT_HALF))


def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        inner = torch.tanh(SQRT_2_OVER_PI * (x + CUBIC * (x * x * x)))
        slope = SQRT_2_OVER_PI * (1 + 3 * CUBIC * (x * x))
        return grad * (0.5 * (1 + inner) + 0.5 * x * ((1 - inner * inner) * slope))
    density = torch.exp(-0.5 * (x * x)) * (SQRT_HALF / math.sqrt(math.pi))
    return grad * (0.5 * (1 + torch.erf(x * SQRT_HALF)) + x * density)


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return torch.where(x > 0, x * scale, torch.expm1(x * input_scale) * (alpha * scale))


def threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    return torch.where(x <= threshold, 0.0, grad)


def variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return variance_and_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def variance_and_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    axes = list(range(x.ndim)) if dim is None or len(dim) == 0 else list(dim)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    divisor = max(0.0, count - (1 if correction is None else correction))
    result = (centred * centred).sum(axes, keepdim=keepdim) / divisor
    return result, mean if keepdim else mean.reshape(result.shape)


def deviation(x: Tensor, dim: Sequence[int] | None = None, **kwargs: Any) -> Tensor:
    return variance(x, dim, **kwargs).sqrt()


def deviation_and_mean(x: Tensor, dim: Sequence[int] | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
    result, mean = variance_and_mean(x, dim, **kwargs)
    return result.sqrt(), mean


def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | int | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    axes = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    size = x.abs()
    if ord == math.inf:
        return size.amax(axes, keepdim)
    if ord == -math.inf:
        return size.amin(axes, keepdim)
    if ord == 0:
        return (size != 0).to(x.dtype).sum(axes, keepdim)
    if ord == 1:
        return size.sum(axes, keepdim)
    if ord == 2:
        return (size * size).sum(axes, keepdim).sqrt()
    return (size**ord).sum(axes, keepdim) ** (1 / ord)


TABLE: dict[str, Callable[..., Any]] = {
    "_softmax": softmax,
    "_softmax_backward_data": softmax_backward,
    "_log_softmax": log_softmax,
    "_log_softmax_backward_data": log_softmax_backward,
    "logsumexp": logsumexp,
    "sigmoid": sigmoid,
    "sigmoid_backward": sigmoid_backward,
    "tanh_backward": tanh_backward,
    "silu": silu,
    "silu_backward": silu_backward,
    "gelu": gelu,
    "gelu_backward": gelu_backward,
    "elu": elu,
    "threshold_backward": threshold_backward,
    "var": variance,
    "var_mean": variance_and_mean,
    "std": deviation,
    "std_mean": deviation_and_mean,
    "linalg_vector_norm": vector_norm,
    "native_layer_norm": apart_norms.layer_norm,
    "native_layer_norm_backward": apart_norms.layer_norm_backward,
    "_fused_rms_norm": apart_norms.rms_norm,
    "_fused_rms_norm_backward": apart_norms.rms_norm_backward,
    "native_group_norm": apart_norms.group_norm,
    "native_group_norm_backward": apart_norms.group_norm_backward,
    "native_batch_norm": apart_norms.batch_norm,
    "_native_batch_norm_legit": apart_norms.batch_norm,
    "native_batch_norm_backward": apart_norms.batch_norm_backward,
    "_scaled_dot_product_flash_attention_for_cpu": apart_fused.attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": apart_fused.attention_backward,
    "_thnn_fused_lstm_cell": apart_fused.lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": apart_fused.lstm_cell_backward,
    "_thnn_fused_gru_cell": apart_fused.gru_cell,
    "_thnn_fused_gru_cell_backward": apart_fused.gru_cell_backward,
}
