"""Fused attention and recurrent cells, forward and backward, in simple ops."""

# ruff: noqa: ARG001 (the signatures are ATen's)

from __future__ import annotations

import math

import torch
from torch import Tensor

# The sum of a softmax that has a term is at least 1; of none it is 0, and 0 / TINY is the 0 that is wanted.
TINY = 2.0**-100


def attention(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0, is_causal: bool = False,
    *, attn_mask: Tensor | None = None, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """torch's fused attention on a CPU. A row that may attend nothing gives zeros."""
    scores = _scores(query, key, is_causal, attn_mask, scale)
    top = scores.amax(-1, keepdim=True)
    top = torch.nan_to_num(top, nan=math.nan, posinf=math.inf, neginf=0.0)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    output = torch.matmul(weights / total.clamp_min(TINY), value)
    return output, (total.log() + top).squeeze(-1)


def attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor, dropout_p: float,
    is_causal: bool, *, attn_mask: Tensor | None = None, scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = _scores(query, key, is_causal, attn_mask, scale)
    lse = logsumexp.unsqueeze(-1)
    weights = torch.exp(scores - torch.nan_to_num(lse, nan=math.nan, posinf=math.inf, neginf=math.inf))
    dvalue = torch.matmul(weights.transpose(-2, -1), grad)
    dweights = torch.matmul(grad, value.transpose(-2, -1))
    delta = (grad * output).sum(-1, keepdim=True)
    dscores = weights * (dweights - delta)
    return torch.matmul(dscores, key) * scale, torch.matmul(dscores.transpose(-2, -1), query) * scale, dvalue


def _scores(query: Tensor, key: Tensor, is_causal: bool, attn_mask: Tensor | None, scale: float | None) -> Tensor:
    scores = torch.matmul(query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores + attn_mask
    if is_causal:  # the upper left corner
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    return scores


def lstm_cell(
    from_input: Tensor, from_hidden: Tensor, cell: Tensor,
    input_bias: Tensor | None = None, hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Hidden state, cell and the gates after their activations (RNN.cu keeps them for the backward pass)."""
    gates = _biased(from_input, input_bias) + _biased(from_hidden, hidden_bias)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    cell = f * cell + i * g
    return o * torch.tanh(cell), cell, torch.cat([i, f, g, o], 1)


def lstm_cell_backward(
    grad_hidden: Tensor | None, grad_cell: Tensor | None, cx: Tensor, cy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    i, f, g, o = workspace.chunk(4, 1)
    top = torch.tanh(cy)
    dc = torch.zeros_like(cy) if grad_cell is None else grad_cell
    do = torch.zeros_like(cy)
    if grad_hidden is not None:
        dc, do = dc + grad_hidden * o * (1 - top * top), grad_hidden * top
    gates = [dc * g * (1 - i) * i, dc * cx * (1 - f) * f, dc * i * (1 - g * g), do * (1 - o) * o]
    dgates = torch.cat(gates, 1)
    return dgates, dc * f, dgates.sum(0) if has_bias else None


def gru_cell(
    from_input: Tensor, from_hidden: Tensor, hx: Tensor,
    input_bias: Tensor | None = None, hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden state, and r, z, n, the old state and the hidden part of n (RNN.cu's workspace)."""
    (ir, iz, i_n), (hr, hz, hn) = (
        _biased(from_input, input_bias).chunk(3, 1),
        _biased(from_hidden, hidden_bias).chunk(3, 1),
    )
    r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
    n = torch.tanh(i_n + r * hn)
    return n + z * (hx - n), torch.cat([r, z, n, hx, hn], 1)


def gru_cell_backward(
    grad: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    r, z, n, hx, hn = workspace.chunk(5, 1)
    dz = grad * (hx - n) * (1 - z) * z
    dn = grad * (1 - z) * (1 - n * n)
    dr = dn * hn * (1 - r) * r
    to_input, to_hidden = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    biases = (to_input.sum(0), to_hidden.sum(0)) if has_bias else (None, None)
    return to_input, to_hidden, grad * z, *biases


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias
