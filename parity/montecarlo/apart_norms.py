"""The normalisations, forward and backward, in simple ops."""

# ruff: noqa: ARG001 (the signatures are ATen's)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Mask = Sequence[bool]


def _normalized(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    rstd = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    return centred * rstd, mean, rstd


def _normalization_backward(grad: Tensor, hat: Tensor, rstd: Tensor, axes: list[int]) -> Tensor:
    """The input's gradient, of the gradient to the normalised numbers `hat`."""
    return (grad - grad.mean(axes, keepdim=True) - hat * (grad * hat).mean(axes, keepdim=True)) * rstd


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = _normalized(x, list(range(x.ndim - len(shape), x.ndim)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


def layer_norm_backward(
    grad: Tensor, x: Tensor, shape: Sequence[int], mean: Tensor, rstd: Tensor,
    weight: Tensor | None, bias: Tensor | None, mask: Mask,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    axes, rows = list(range(x.ndim - len(shape), x.ndim)), list(range(x.ndim - len(shape)))
    hat = (x - mean) * rstd
    inner = grad if weight is None else grad * weight
    dx = _normalization_backward(inner, hat, rstd, axes) if mask[0] else None
    dweight = _summed(grad * hat, rows) if mask[1] else None
    return dx, dweight, _summed(grad, rows) if mask[2] else None


def _summed(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes) if axes else x


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    axes = list(range(x.ndim - len(shape), x.ndim))
    rstd = torch.rsqrt((x * x).mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return x * rstd if weight is None else x * rstd * weight, rstd


def rms_norm_backward(
    grad: Tensor, x: Tensor, shape: Sequence[int], rstd: Tensor, weight: Tensor | None, mask: Mask
) -> tuple[Tensor | None, Tensor | None]:
    axes, rows = list(range(x.ndim - len(shape), x.ndim)), list(range(x.ndim - len(shape)))
    hat = x * rstd
    inner = grad if weight is None else grad * weight
    dx = (inner - hat * (inner * hat).mean(axes, keepdim=True)) * rstd if mask[0] else None
    return dx, _summed(grad * hat, rows) if mask[1] else None


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, channels: int, size: int, group: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = _normalized(x.reshape(n, group, -1), [2], eps)
    y, each = y.reshape(x.shape), (1, channels) + (1,) * (x.ndim - 2)
    y = y if weight is None else y * weight.reshape(each)
    y = y if bias is None else y + bias.reshape(each)
    return y, mean.reshape(n, group), rstd.reshape(n, group)


def group_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None,
    n: int, channels: int, size: int, group: int, mask: Mask,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    mean, rstd = mean.reshape(n, group, 1), rstd.reshape(n, group, 1)
    hat = (x.reshape(n, group, -1) - mean) * rstd
    by_channel = grad.reshape(n, channels, size)
    inner = by_channel if weight is None else by_channel * weight.reshape(1, channels, 1)
    dx = None
    if mask[0]:
        dx = _normalization_backward(inner.reshape(n, group, -1), hat, rstd, [2]).reshape(x.shape)
    dweight = (by_channel * hat.reshape(n, channels, size)).sum([0, 2]) if mask[1] else None
    return dx, dweight, by_channel.sum([0, 2]) if mask[2] else None


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    each, axes = (1, -1) + (1,) * (x.ndim - 2), [axis for axis in range(x.ndim) if axis != 1]
    if training:
        y, mean, rstd = _normalized(x, axes, eps)
        saved = mean.reshape(-1), rstd.reshape(-1)
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(saved[0] * momentum)
        if running_var is not None:
            running_var.mul_(1 - momentum).add_(x.var(axes, correction=1) * momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        y = (x - running_mean.reshape(each)) * torch.rsqrt(running_var.reshape(each) + eps)
        saved = x.new_empty(0), x.new_empty(0)
    y = y if weight is None else y * weight.reshape(each)
    return y if bias is None else y + bias.reshape(each), *saved


def batch_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    mean: Tensor | None, rstd: Tensor | None, train: bool, eps: float, mask: Mask,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    each, axes = (1, -1) + (1,) * (x.ndim - 2), [axis for axis in range(x.ndim) if axis != 1]
    if not train:
        assert running_var is not None
        mean, rstd = running_mean, torch.rsqrt(running_var + eps)
    assert mean is not None
    assert rstd is not None
    mean, rstd = mean.reshape(each), rstd.reshape(each)
    hat = (x - mean) * rstd
    inner = grad if weight is None else grad * weight.reshape(each)
    dx = None
    if mask[0]:
        dx = _normalization_backward(inner, hat, rstd, axes) if train else inner * rstd
    dweight = (grad * hat).sum(axes) if mask[1] else None
    return dx, dweight, grad.sum(axes) if mask[2] else None
