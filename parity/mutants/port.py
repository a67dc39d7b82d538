"""A torch port of Attend, cut into steps so that each can be got wrong on its own. The rest of this package builds on it.

It computes S1 to S16 in its own way: float32 inside for 16-bit inputs, one path for both modes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Port(nn.Module):
    """Attend's constructor and call; `forward` is the order of the steps, and a mutant replaces one of them."""

    def __init__(
        self,
        dropout: float = 0.0,
        flash: bool = False,
        causal: bool | str = False,
        *,
        scale: float | None = None,
        layout: str = "bhnd",
    ) -> None:
        super().__init__()
        self.dropout, self.flash, self.causal, self.scale, self.layout = dropout, flash, causal, scale, layout

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        dropout_mask: Tensor | None = None,
        return_logsumexp: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        dtype = q.dtype
        q, k, v = self.arrange(q, k, v)
        scores = self.scores(q, k, v)
        if bias is not None:
            scores = self.add_bias(scores, bias, q.shape[-1])
        keep = self.allowed(q.shape[-2], k.shape[-2], mask)
        weights = self.softmax(self.fill(scores, keep, torch.finfo(dtype).min), keep)
        if self.drops(dropout_mask):
            weights = self.drop(weights, self.kept(weights, dropout_mask))
        output = self.finish(self.contract(weights, v), dtype)
        if not return_logsumexp:
            return output
        return output, self.logsumexp(scores, keep)

    def arrange(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To (b h n d), one key head a query head, at least float32."""
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = (self.heads_first(x.to(wide)) for x in (q, k, v))
        return q, self.spread(k, q.shape[1]), self.spread(v, q.shape[1])

    def heads_first(self, x: Tensor) -> Tensor:
        return x if self.layout == "bhnd" else x.transpose(1, 2)

    def spread(self, x: Tensor, heads: int) -> Tensor:
        return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)

    def factor(self, q: Tensor, v: Tensor) -> float:
        del v
        return q.shape[-1] ** -0.5 if self.scale is None else self.scale

    def scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ k.mT * self.factor(q, v)

    def add_bias(self, scores: Tensor, bias: Tensor, head_dim: int) -> Tensor:
        del head_dim
        return scores + bias

    def corner(self) -> str | None:
        if self.causal is True:
            return "upper_left" if self.flash else "lower_right"
        return self.causal or None

    def offset(self, q_len: int, kv_len: int) -> int:
        return kv_len - q_len if self.corner() == "lower_right" else 0

    def allowed(self, q_len: int, kv_len: int, mask: Tensor | None) -> Tensor | None:
        if self.corner() is None:
            return mask
        causal = torch.ones(q_len, kv_len, dtype=torch.bool).tril(self.offset(q_len, kv_len))
        return causal if mask is None else self.both(causal, mask)

    def both(self, causal: Tensor, mask: Tensor) -> Tensor:
        return causal & mask

    def fill(self, scores: Tensor, keep: Tensor | None, lowest: float) -> Tensor:
        return scores if keep is None else scores.masked_fill(~keep, lowest)

    def softmax(self, filled: Tensor, keep: Tensor | None) -> Tensor:
        del keep
        return filled.softmax(-1)

    def drops(self, dropout_mask: Tensor | None) -> bool:
        del dropout_mask
        return self.training and self.dropout > 0

    def kept(self, weights: Tensor, dropout_mask: Tensor | None) -> Tensor:
        return torch.rand_like(weights) >= self.dropout if dropout_mask is None else dropout_mask

    def drop(self, weights: Tensor, kept: Tensor) -> Tensor:
        return weights * kept * (0.0 if self.dropout == 1 else 1 / (1 - self.dropout))

    def contract(self, weights: Tensor, v: Tensor) -> Tensor:
        return weights @ v

    def finish(self, output: Tensor, dtype: torch.dtype) -> Tensor:
        return self.heads_first(output.to(dtype))

    def logsumexp(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        scores = scores if keep is None else scores.masked_fill(~keep, -torch.inf)
        nothing = (scores == -torch.inf).all(-1)
        return scores.masked_fill(nothing[..., None], 0).logsumexp(-1).masked_fill(nothing, -torch.inf)
