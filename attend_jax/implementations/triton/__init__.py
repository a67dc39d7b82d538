"""Attention by kernels of our own: a flash-attention in Pallas, compiled by Triton.

It meets S1 to S17 in every combination, in 16 and in 32 bits, with memory linear in the lengths: scores, weights,
dropout and whatever broadcasts in a bias or mask exist a tile at a time. fp32 is multiplied in split TF32, which is
accurate to fp32. Gradients are deterministic.

    plan      what is static, and the sizes of the tiles
    tiles     what the kernels share
    forward   the forward kernel
    backward  the backward kernels
    driver    which problems they take; the function with its gradient

The kernels have no forward mode and no second derivatives: `implementation="einsum"` has both.
"""

from __future__ import annotations

from attend_jax.implementations.triton.driver import refusal, run

__all__ = ["refusal", "run"]
