"""What attend_jax takes of JAX's private parts, and only where it still is what we know.

`aligned`: which axes of `jax.shard_map` an array varies over is in its type, under a name that is not settled yet.

`cudnn`: the public `jax.nn.dot_product_attention` takes (b n h d) only, so that (b h n d) inputs are transposed on the
way to cuDNN and back, a sixth of the time at (4, 16, 4096, 128); it rounds the log-sum-exp to 16 bits and drops its
cotangent. The functions behind it read either layout and give all that the kernel gives. Where JAX has changed them,
the public function does what it can.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from attend_jax.problem import Operands


class Call(Protocol):
    """What the functions below need to know of a call; `layout` is "bhnd" or "bnhd"."""

    @property
    def scale(self) -> float: ...
    @property
    def layout(self) -> str: ...
    @property
    def causal(self) -> bool: ...
    @property
    def dbias(self) -> bool: ...


class Cudnn(NamedTuple):
    """cuDNN's kernel. Each takes a `Call`, how many keys may be seen (None: all), query, key, value and bias.

    `exact`: whether `forward_and_logsumexp` gives the float32 log-sum-exp (b h i), and `backward`, which takes output,
    log-sum-exp and cotangent besides, goes by the ones it is given. If not, it goes by its own.
    """

    forward: Callable[..., jax.Array]
    forward_and_logsumexp: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[Any, ...]]
    exact: bool


# The parameters that were tested, with jax 0.10.2 and 0.11.2.
_TENSORS = (
    "query",
    "key",
    "value",
    "bias",
    "q_seqlen",
    "kv_seqlen",
    "q_offsets",
    "kv_offsets",
    "page_table_k",
    "page_table_v",
)
_OPTIONS = ("scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout", "sliding_window_length")
_KNOWN = {
    "_dot_product_attention_fwd_rule": (*_TENSORS, *_OPTIONS, "cudnn_version", "return_residual"),
    "_dot_product_attention_bwd_rule": (*_OPTIONS, "is_training", "return_residual", "res", "grad_output"),
}


@functools.cache
def cudnn() -> Cudnn:
    """The private functions where they are what we know, else the public one."""
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module

        known = all(tuple(inspect.signature(getattr(module, name)).parameters) == _KNOWN[name] for name in _KNOWN)
        layouts = {
            "bhnd": ("BNTH", module.AttentionLayout.BNTH.value),
            "bnhd": ("BTNH", module.AttentionLayout.BTNH.value),
        }
        masks = module.MaskType.NO_MASK, module.MaskType.CAUSAL, module.MaskType.PADDING
    except (ImportError, AttributeError):
        known = False
    return Cudnn(*_private(module, layouts, masks), exact=True) if known else Cudnn(*_public(), exact=False)


def _private(module: Any, layouts: dict[str, Any], masks: Any) -> tuple[Any, Any, Any]:
    def options(call: Call, seen: int | None, query: jax.Array) -> tuple[Any, list[jax.Array]]:
        """The kind of mask, and the lengths of queries and keys."""
        if seen is None:
            return masks[1 if call.causal else 0], []
        length = query.shape[2 if call.layout == "bhnd" else 1]
        return masks[2], [jnp.full(query.shape[:1], size, jnp.int32) for size in (length, seen)]

    def arguments(call: Call, seen: int | None, query: Any, key: Any, value: Any, bias: Any) -> tuple[Any, Any]:
        mask, lengths = options(call, seen, query)
        unused = jnp.zeros(0, query.dtype)
        tensors = (query, key, value, unused if bias is None else bias, *(lengths or [unused] * 2), *[unused] * 4)
        flags = (bias is not None, bias is not None and call.dbias)
        return tensors, (call.scale, 42, 0.0, flags, mask, layouts[call.layout][1], None)

    def forward(call: Call, seen: int | None, query: Any, key: Any, value: Any, bias: Any) -> jax.Array:
        mask, lengths = options(call, seen, query)
        output: jax.Array = module.dot_product_attention(
            query, key, value, bias, None, *lengths, scale=call.scale, mask_type=mask,
            qkv_layout=layouts[call.layout][0],
        )  # fmt: skip
        return output

    def forward_and_logsumexp(call: Call, seen: int | None, *arrays: Any) -> tuple[jax.Array, jax.Array]:
        tensors, static = arguments(call, seen, *arrays)
        version = module.check_cudnn_version()
        (output, logsumexp), _ = module._dot_product_attention_fwd_rule(*tensors, *static, version, True)
        return output, logsumexp

    def backward(
        call: Call, seen: int | None, query: Any, key: Any, value: Any, bias: Any, output: Any, logsumexp: Any,
        cotangent: Any,
    ) -> tuple[jax.Array | None, ...]:  # fmt: skip
        tensors, static = arguments(call, seen, query, key, value, bias)
        residuals = (*tensors, logsumexp, output)
        found = module._dot_product_attention_bwd_rule(*static, True, False, residuals, cotangent)
        return tuple(found[:4])

    return forward, forward_and_logsumexp, backward


def _public() -> tuple[Any, Any, Any]:
    def forward(call: Call, seen: int | None, query: Any, key: Any, value: Any, bias: Any) -> jax.Array:
        if call.layout == "bhnd":
            query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        lengths = None if seen is None else jnp.full(query.shape[:1], seen, jnp.int32)
        output = jax.nn.dot_product_attention(
            query, key, value, bias, scale=call.scale, is_causal=call.causal, key_value_seq_lengths=lengths,
            implementation="cudnn",
        )  # fmt: skip
        return jnp.swapaxes(output, 1, 2) if call.layout == "bhnd" else output

    def forward_and_logsumexp(call: Call, seen: int | None, *arrays: Any) -> tuple[jax.Array, jax.Array]:
        output = forward(call, seen, *arrays)
        heads, length = (1, 2) if call.layout == "bhnd" else (2, 1)
        shape = (output.shape[0], output.shape[heads], output.shape[length])
        return output, jnp.zeros(shape, jnp.float32)  # not to be had; `backward` does without

    def backward(call: Call, seen: int | None, *arrays: Any) -> tuple[jax.Array | None, ...]:
        *inputs, _, _, cotangent = arrays
        _, vjp = jax.vjp(functools.partial(forward, call, seen), *inputs)
        return tuple(vjp(cotangent))

    return forward, forward_and_logsumexp, backward


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
