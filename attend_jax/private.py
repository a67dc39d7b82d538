"""What attend_jax takes of JAX's private parts, and only where it still is what we know.

`aligned`: which axes of `jax.shard_map` an array varies over is in its type, under a name that is not settled yet.

`cudnn_on_bhnd`: `jax.nn.dot_product_attention` takes (b n h d) only, so that (b h n d) inputs are transposed on the
way to cuDNN and back, a sixth of the time at (4, 16, 4096, 128). The kernel reads either; the function says so to it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax

from attend_jax.problem import Operands

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


def aligned(operands: Operands) -> Operands:
    """Inside `jax.shard_map`, whatever is differentiated made to vary over the same mesh axes.

    The gradient of what does not is the sum over the devices; a custom_vjp is not allowed to know (jax 0.10.2).
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return operands
    names = [name for name in ("query", "key", "value", "bias", "scale") if getattr(operands, name) is not None]
    axes = {name: varying(getattr(operands, name)) for name in names}
    everywhere = frozenset[str]().union(*axes.values())
    missing = {name: tuple(sorted(everywhere - own)) for name, own in axes.items() if everywhere - own}
    cast = {name: jax.lax.pcast(getattr(operands, name), rest, to="varying") for name, rest in missing.items()}
    return operands._replace(**cast)


def varying(array: jax.Array) -> frozenset[str]:
    """The mesh axes that an array varies over; none without `check_vma`, or where JAX has changed the name."""
    of_type = jax.typeof(array)
    found = getattr(getattr(of_type, "manual_axis_type", None), "varying", None)
    return frozenset(getattr(of_type, "vma", ()) if found is None else found)
