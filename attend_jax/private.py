"""What attend_jax takes of JAX's private parts: this one function, and only where it still is what we know.

`jax.nn.dot_product_attention` takes (b n h d) only, so that (b h n d) inputs are transposed on the way to cuDNN and
back, a sixth of the time at (4, 16, 4096, 128). The kernel itself reads either; the function below says so to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax

# The signature that was tested, with jax 0.10.2 and 0.11.2.
_NEEDED = {"query", "key", "value", "bias", "scale", "mask_type", "qkv_layout"}


@functools.cache
def cudnn_on_bhnd() -> Callable[..., jax.Array] | None:
    """cuDNN's kernel for (b h n d) arrays: f(query, key, value, *, scale, causal); None where JAX changed it."""
    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
    except ImportError:
        return None
    if not {"NO_MASK", "CAUSAL"} <= set(MaskType.__members__):
        return None
    masks = {False: MaskType.NO_MASK, True: MaskType.CAUSAL}
    if not set(inspect.signature(dot_product_attention).parameters) >= _NEEDED:
        return None

    def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, scale: float, causal: bool) -> jax.Array:
        output: jax.Array = dot_product_attention(
            query, key, value, scale=scale, mask_type=masks[causal], qkv_layout="BNTH"
        )
        return output

    return attention
