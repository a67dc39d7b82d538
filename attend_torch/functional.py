"""The reference: attention in torch, small enough to be read as the specification.

The rule numbers S1 to S17 are explained in docs/semantics.md; each has a test with numbers worked out by hand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch.nn.attention import SDPBackend, sdpa_kernel

from attend_torch.masks import CAUSAL, allowed
from attend_torch.validation import check_options, check_tensors

# torch takes the first of these that supports the call. MATH is always among them: a table of "the kernel for
# this GPU" is what made fp32 fail on an A100 with "No available kernel".
_FUSED_KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
]


def attend(
    query: Float[torch.Tensor, "b h i d"],
    key: Float[torch.Tensor, "b hk j d"],
    value: Float[torch.Tensor, "b hk j e"],
    bias: Float[torch.Tensor, ...] | None = None,
    *,
    mask: Bool[torch.Tensor, ...] | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: torch.Generator | None = None,
    dropout_mask: Bool[torch.Tensor, "b h i j"] | None = None,
    layout: str = "bhnd",
    return_logsumexp: bool = False,
    implementation: str = "plain",
) -> Float[torch.Tensor, "b h i e"] | tuple[Float[torch.Tensor, "b h i e"], Float[torch.Tensor, "b h i"]]:
    """softmax(query · keyᵀ * scale + bias, masked) · value, with dropout on the softmax's weights.

    Args:
      query, key, value: one floating dtype. `h` is a multiple of `hk` (grouped heads, S7 and S13): query head n
        reads key head n // (h / hk). With `layout="bnhd"` (S14) they and the output are (b, n, h, d).
      bias: added to the scaled scores (S2); broadcasts to (b, h, i, j). In query's dtype, narrower, or float32
        with 16-bit inputs.
      mask: True = attend (S12); broadcasts to (b, h, i, j), and is combined with `causal` by AND.
      causal: False; True or "lower_right": row r attends key c when c <= r + (j - i) (S3); "upper_left": when
        c <= r (S8, S10).
      scale: multiplies the scores; None means head_dim ** -0.5 (S1).
      dropout_rate: the share of weights that is dropped, between 0 and 1; the others are divided by
        1 - dropout_rate (S6). A functional form has no evaluation mode: pass 0 there.
      dropout_rng: where the dropped weights come from; None is torch's global generator.
      dropout_mask: True = keep (S16); instead of `dropout_rng`, so that two frameworks drop the same weights.
      return_logsumexp: also return the log of the sum of the exponentials of the allowed scores (S15), float32
        (float64 for float64 inputs), -inf with zero gradient for a row that may attend nothing.
      implementation: "plain", or "fused": torch's scaled_dot_product_attention.

    Returns:
      The output in query's dtype, or (output, logsumexp). A row that may attend nothing attends every key
      uniformly (S4).

    Raises:
      TypeError, ValueError: what was expected, what came, what to do; before any compute.

    >>> query = torch.tensor([[[[0.0], [1.0]]]])
    >>> attend(query, torch.zeros(1, 1, 2, 1), torch.tensor([[[[1.0], [3.0]]]]), causal=True).flatten().tolist()
    [1.0, 2.0]
    """
    check_options(causal=causal, scale=scale, dropout_rate=dropout_rate, layout=layout, implementation=implementation)
    check_tensors(query, key, value, bias, mask, dropout_mask, layout=layout, dropout_rate=dropout_rate)
    if layout == "bnhd":
        query, key, value = (rearrange(x, "b n h d -> b h n d") for x in (query, key, value))
    if query.shape[1] != key.shape[1]:
        group = query.shape[1] // key.shape[1]
        key, value = (repeat(x, "b h j d -> b (h g) j d", g=group) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    corner = CAUSAL[causal]
    # torch's kernel takes neither a keep-mask nor a generator, not every backend takes a size of 0, and the bias must
    # have query's dtype: an fp32 one may be infinite in float16.
    fused = implementation == "fused" and dropout_mask is None and dropout_rng is None
    fused = fused and 0 not in (*query.shape, *value.shape)
    if fused and not (bias is not None and query.dtype == torch.float16 and bias.dtype == torch.float32):
        output = _fused(query, key, value, bias, mask, corner, scale, dropout_rate)
    else:
        output = _plain(query, key, value, bias, mask, corner, scale, dropout_rate, dropout_rng, dropout_mask)
    if layout == "bnhd":
        output = rearrange(output, "b h n e -> b n h e")
    if not return_logsumexp:
        return output
    keep = allowed(query.shape[-2], key.shape[-2], corner, mask, query.device)
    return output, _logsumexp(_scores(query, key, bias, scale), keep)


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    corner: str | None,
    scale: float,
    dropout_rate: float,
    dropout_rng: torch.Generator | None,
    dropout_mask: torch.Tensor | None,
) -> torch.Tensor:
    scores = _scores(query, key, bias, scale)
    keep = allowed(query.shape[-2], key.shape[-2], corner, mask, query.device)
    if keep is not None:
        # The lowest finite number and not -inf, so that a row that may attend nothing is uniform, not NaN (S3, S4).
        scores = scores.masked_fill(~keep, torch.finfo(query.dtype).min)
    weights = scores.softmax(dim=-1)
    if dropout_rate > 0:
        weights = _dropout(weights, dropout_rate, dropout_rng, dropout_mask)
    return torch.einsum("bhij,bhje->bhie", weights.to(value.dtype), value)


def _scores(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * scale
    return scores if bias is None else scores + bias  # a wider bias promotes the scores (S2)


def _dropout(
    weights: torch.Tensor, rate: float, rng: torch.Generator | None, keep: torch.Tensor | None
) -> torch.Tensor:
    if keep is None:
        keep = torch.rand(weights.shape, generator=rng, device=weights.device) >= rate
    return weights * (keep * (0.0 if rate == 1 else 1 / (1 - rate))).to(weights.dtype)


def _logsumexp(scores: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if keep is not None:
        scores = scores.masked_fill(~keep, -torch.inf)
    nothing = (scores == -torch.inf).all(dim=-1)
    finite = scores.masked_fill(nothing[..., None], 0)  # keeps -inf minus -inf out of the gradient
    return torch.logsumexp(finite, dim=-1).masked_fill(nothing, -torch.inf)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    corner: str | None,
    scale: float,
    dropout_rate: float,
) -> torch.Tensor:
    q_len, kv_len = query.shape[-2], key.shape[-2]
    # torch's own causal flag is aligned to the upper left, but for one query without gradients, where some CUDA kernels
    # show it every key (seen on an H200, torch 2.11).
    square = corner == "upper_left" or (corner is not None and q_len == kv_len)
    is_causal = square and bias is None and mask is None and q_len > 1
    attn_mask = None if bias is None else bias.to(query.dtype)
    keep = None if is_causal else allowed(q_len, kv_len, corner, mask, query.device)
    if keep is not None:
        # torch gives 0 for a row that may attend nothing. A row of zeros that attends everything is uniform, with no
        # gradient to query and bias: S4.
        nothing = ~keep.any(dim=-1, keepdim=True)
        query = query.masked_fill(nothing, 0)
        if attn_mask is None:
            attn_mask = keep | nothing
        else:
            attn_mask = attn_mask.masked_fill(~keep, -torch.inf).masked_fill(nothing, 0)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:2], q_len, kv_len)
    with sdpa_kernel(_FUSED_KERNELS):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=attn_mask, dropout_p=dropout_rate, is_causal=is_causal, scale=scale
        )
