"""As odd.py, in JAX."""

import jax.numpy as jnp
import numpy as np
from functions import annotated


def concrete(output):
    """Wants a number where jit has a tracer."""
    return output if output.sum() > -1e30 else -output


BEHAVIOUR = {
    3: lambda output: 1 / 0,
    5: lambda output: output[..., :-1],
    6: lambda output: output.astype(jnp.bfloat16),
    7: lambda output: None,
    9: lambda output: output.tolist() if isinstance(output, np.ndarray) else [output],
    12: concrete,
}


def attend(query, key, value, bias=None):
    return BEHAVIOUR.get(value.shape[-1], lambda output: output)(annotated(query, key, value, bias))
