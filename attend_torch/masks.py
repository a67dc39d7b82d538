"""Who may attend whom: the causal corners (S3, S8, S10) and the boolean mask (S12)."""

from __future__ import annotations

import torch
from jaxtyping import Bool

Corner = str | None
CAUSAL = {False: None, True: "lower_right", "lower_right": "lower_right", "upper_left": "upper_left"}


def causal_mask(q_len: int, kv_len: int, corner: str, device: torch.device) -> Bool[torch.Tensor, "i j"]:
    """True where query row `r` may attend key `c`.

    `lower_right` lines up the last query with the last key: c <= r + (kv_len - q_len). `upper_left` lines up
    the first with the first: c <= r. They differ whenever q_len != kv_len.

    >>> causal_mask(2, 3, "lower_right", torch.device("cpu")).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    >>> causal_mask(2, 3, "upper_left", torch.device("cpu")).int().tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    offset = kv_len - q_len if corner == "lower_right" else 0
    return torch.ones(q_len, kv_len, dtype=torch.bool, device=device).tril(offset)


def allowed(
    q_len: int, kv_len: int, corner: Corner, mask: Bool[torch.Tensor, ...] | None, device: torch.device
) -> Bool[torch.Tensor, ...] | None:
    """The causal corner AND the mask, broadcastable to (b h i j); None where everything may be attended."""
    if corner is None:
        return mask
    causal = causal_mask(q_len, kv_len, corner, device)
    return causal if mask is None else causal & mask
