"""From a row to its tensors; the same in every process that asks, so that nothing large has to travel."""

from __future__ import annotations

import numpy as np

from parity.attention import Attention
from parity.tensors import dtype_of, generator


def make(attention: Attention, seed: int) -> dict[str, np.ndarray]:
    """query, key, value, perhaps bias, and cotangent_output, in layout bhnd.

    Drawn in float32, which at these sizes is several times faster than what `parity.tensors` does.
    """
    arrays = {}
    for spec in attention.case().tensors:
        rng = generator(seed, attention.name, spec.name)
        drawn = rng.standard_normal(spec.shape, dtype=np.float32)
        if spec.std != 1:
            drawn *= np.float32(spec.std)
        arrays[spec.name] = drawn.astype(dtype_of(spec.dtype), copy=False)
    return arrays


def names(attention: Attention) -> tuple[str, ...]:
    """What is differentiated."""
    return ("query", "key", "value") + (("bias",) if attention.bias else ())
