"""`Attend` as a torch module: it only keeps the options and calls `attend`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import nn

from attend_torch.functional import attend
from attend_torch.validation import check_options


class Attend(nn.Module):
    """The attention core of a text-to-video U-Net.

    Args:
      dropout: share of the softmax's weights that is dropped in training.
      flash: use torch's fused kernel. It also decides the corner of `causal=True`, as in the original: upper
        left with it (S8), lower right without (S3). They differ whenever q_len != kv_len; say
        `causal="lower_right"` or `"upper_left"` to have the same in both (S10).
      causal: False, True, "lower_right" or "upper_left".
      scale: multiplies the scores; None means head_dim ** -0.5.
      layout: "bhnd", or "bnhd" for query, key, value and output.
      implementation: "plain" or "fused" whatever `flash` says; None follows `flash`.

    >>> attend = Attend(causal=True).eval()
    >>> q, k, v = torch.randn(2, 8, 5, 64), torch.randn(2, 8, 7, 64), torch.randn(2, 8, 7, 32)
    >>> attend(q, k, v, bias=torch.zeros(8, 5, 7)).shape
    torch.Size([2, 8, 5, 32])
    """

    def __init__(
        self,
        dropout: float = 0.0,
        flash: bool = False,
        causal: bool | str = False,
        *,
        scale: float | None = None,
        layout: str = "bhnd",
        implementation: str | None = None,
    ) -> None:
        super().__init__()
        implementation = ("fused" if flash else "plain") if implementation is None else implementation
        check_options(causal=causal, scale=scale, dropout_rate=dropout, layout=layout, implementation=implementation)
        self.dropout = dropout
        self.flash = flash
        self.causal = causal
        self.scale = scale
        self.layout = layout
        self.implementation = implementation

    def forward(
        self,
        q: Float[torch.Tensor, "b h i d"],
        k: Float[torch.Tensor, "b hk j d"],
        v: Float[torch.Tensor, "b hk j e"],
        bias: Float[torch.Tensor, ...] | None = None,
        *,
        mask: Bool[torch.Tensor, ...] | None = None,
        dropout_mask: Bool[torch.Tensor, "b h i j"] | None = None,
        return_logsumexp: bool = False,
    ) -> Float[torch.Tensor, "b h i e"] | tuple[Float[torch.Tensor, "b h i e"], Float[torch.Tensor, "b h i"]]:
        """See `attend_torch.attend`; `dropout_mask` is for training only (S16)."""
        return attend(
            q,
            k,
            v,
            bias,
            mask=mask,
            causal="upper_left" if self.flash and self.causal is True else self.causal,
            scale=self.scale,
            dropout_rate=self.dropout if self.training else 0.0,
            dropout_mask=dropout_mask,
            layout=self.layout,
            return_logsumexp=return_logsumexp,
            implementation=self.implementation,
        )

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, flash={self.flash}, causal={self.causal!r}"
