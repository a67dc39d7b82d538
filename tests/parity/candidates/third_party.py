"""Somebody's torch module with S1 to S9 and nothing of ours: the original's constructor, call and refusals."""

import torch
import torch.nn.functional as F
from torch import einsum, nn


class Attend(nn.Module):
    def __init__(self, dropout=0.0, flash=False, causal=False):
        super().__init__()
        self.dropout, self.flash, self.causal = nn.Dropout(dropout), flash, causal

    def forward(self, q, k, v, bias=None):
        if k.shape[1] != q.shape[1]:
            k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
        if self.flash:
            assert bias is None, "no bias with flash"
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        scores = einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        i, j = scores.shape[-2:]
        if self.causal:
            future = torch.ones(i, j, dtype=torch.bool).triu(j - i + 1)
            scores = scores.masked_fill(future, -torch.finfo(scores.dtype).max)
        return einsum("bhij,bhjd->bhid", self.dropout(scores.softmax(-1)), v)


class NeedsMore(Attend):
    """Cannot be built with dropout, flash and causal alone."""

    def __init__(self, heads, dropout=0.0, flash=False, causal=False):
        super().__init__(dropout, flash, causal)
        self.heads = heads


def function(q, k, v, bias=None, *, scale=None):
    scores = einsum("bhid,bhjd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return einsum("bhij,bhjd->bhid", (scores if bias is None else scores + bias).softmax(-1), v)


not_callable = 3
