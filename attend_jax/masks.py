"""Who may attend whom: the causal corners (S3, S8, S10) and the boolean mask (S12)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from attend_jax.problem import Problem

CAUSAL = {False: None, True: "lower_right", "lower_right": "lower_right", "upper_left": "upper_left"}


def causal_mask(q_len: int, kv_len: int, corner: str) -> Bool[Array, "i j"]:
    """True where query row `r` may attend key `c`.

    `lower_right` lines up the last query with the last key: c <= r + (kv_len - q_len). `upper_left` lines up
    the first with the first: c <= r. They differ whenever q_len != kv_len.

    >>> causal_mask(2, 3, "lower_right").astype(int).tolist()
    [[1, 1, 0], [1, 1, 1]]
    >>> causal_mask(2, 3, "upper_left").astype(int).tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    row = jax.lax.broadcasted_iota(jnp.int32, (q_len, kv_len), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (q_len, kv_len), 1)
    return column <= row + (kv_len - q_len if corner == "lower_right" else 0)


def offset(problem: Problem) -> int:
    """Of a causal problem: row r may attend column c when c <= r + offset."""
    return problem.kv_len - problem.q_len if problem.causal == "lower_right" else 0


def allowed(problem: Problem, mask: Bool[Array, "#b #h #i #j"] | None) -> Bool[Array, "#b #h i j"] | None:
    """The causal corner AND the mask, with four axes; None where everything may be attended."""
    if problem.causal is None:
        return mask
    causal = causal_mask(problem.q_len, problem.kv_len, problem.causal)[None, None]
    return causal if mask is None else causal & mask
