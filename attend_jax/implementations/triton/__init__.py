"""Attention by kernels of our own: a flash-attention in Pallas, compiled by Triton.

It meets S1 to S17 in every combination, in 16 and in 32 bits, with memory linear in the lengths: scores, weights,
dropout and whatever broadcasts in a bias or mask exist a tile at a time. fp32 is multiplied as three bfloat16 numbers
each, which loses nothing, and tensor cores take 16 bits faster than TF32 and in any order. Gradients are deterministic.

    plan      what is static, the sizes of the tiles, and what is refused
    tiles     what the kernels share
    loops     which tiles they visit
    forward   the forward kernel
    backward  the backward kernels of query, key and value
    dbias     that of the bias
    small     all of them in one, for short sequences
    driver    the function with its gradient

The kernels have no forward mode and no second derivatives: `implementation="einsum"` has both. In `jax.shard_map` they
need `check_vma=False`; `jax.export` needs the custom call "__gpu$xla.gpu.triton" to be let through, and fixed sizes.
jax 0.11 says that its Triton lowering will go: what depends on it is `tiles.call` and the loads and stores in `tiles`.
"""

from __future__ import annotations

from attend_jax.implementations.triton.plan import refusal
from attend_jax.problem import Operands, Problem, Result

__all__ = ["refusal", "run"]


def run(problem: Problem, operands: Operands) -> Result:
    # Not at the top: jaxlib has no Triton on some platforms, which have no CUDA either.
    from attend_jax.implementations.triton import driver

    return driver.run(problem, operands)
