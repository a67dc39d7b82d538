"""Attention by cuDNN's fused kernel.

The kernel knows less than S1 to S17, so everything it lacks is rewritten exactly, in this order:

    run (here)     mask, empty rows: an additive bias, and queries of zeros; a traced scale
    rectangle.py   causal rectangles: squares with the kernel's own causal flag, and rectangles in which all is seen
    kernel.py      odd lengths and sizes: padding that cannot be seen; the gradient of the log-sum-exp; vmap

`attend_jax.private` calls the kernel, in the layout that the arrays have. What cannot be rewritten is refused. The
kernel has no forward mode and no second derivatives: `implementation="einsum"` has.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from attend_jax import masks, private
from attend_jax.implementations.cudnn import kernel, rectangle
from attend_jax.implementations.cudnn.kernel import Arrays
from attend_jax.problem import Operands, Problem, Result


def refusal(problem: Problem) -> str | None:
    """Why cuDNN cannot do this here, found out without tracing the problem."""
    if not jnp.issubdtype(problem.dtype, jnp.floating) or not problem.is_16_bit:
        return f"takes float16 and bfloat16 only; got {problem.dtype}"
    if 0 in (*problem.scores_shape, problem.value_dim):
        return "takes no empty arrays"
    if problem.dtype == jnp.float16 and problem.bias_dtype == jnp.float32:
        return "would round a float32 bias to float16, where numbers beyond 65504 are infinite"
    if problem.dropout is not None:
        return "its dropout is not a function of the key and the weight's place alone (S6)"
    if problem.return_logsumexp and not private.cudnn().exact:
        return "the log-sum-exp of this JAX is rounded to 16 bits and has no gradient (S15)"
    return _unavailable(problem)


def _unavailable(problem: Problem) -> str | None:
    """Ask JAX: is there a cuDNN, and does this GPU take the head size? In JAX's own words."""
    size = kernel.head_size(problem.head_dim, problem.value_dim, problem.return_logsumexp)
    shape = jax.ShapeDtypeStruct((1, 2, 1, size), problem.dtype)
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), shape, shape, shape)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).rstrip(".")
    return None


def run(problem: Problem, operands: Operands) -> Result:
    query, key, value, bias, mask, scale, *_ = operands
    if scale is not None:  # the kernel takes a compile-time scale only
        query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    q_len, kv_len = problem.q_len, problem.kv_len
    if bias is not None:
        # An fp32 bias has given NaN gradients (jax#32242), one that broadcasts over a length fails (jax#28974).
        bias = jnp.broadcast_to(bias.astype(query.dtype), (*bias.shape[:2], q_len, kv_len))
    corner, empty = problem.causal, None
    if mask is not None:
        # The kernel has no uniform rows (S4): a query of zeros that may attend everything makes one, and passes no
        # gradient to query and bias.
        keep = masks.allowed(problem, mask)
        assert keep is not None
        corner, empty = None, ~jnp.any(keep, axis=-1)  # (b h i), axes of 1 as in the mask
        query = jnp.where(_as_rows(problem, empty), 0, query)
        bias = jnp.where(keep, 0 if bias is None else bias, kernel.lowest(query.dtype))
        bias = jnp.where(empty[..., None], 0, bias).astype(query.dtype)
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], q_len, kv_len))
    static = rectangle.Static(
        kernel.Call(
            scale=1.0 if problem.scale is None else problem.scale,
            layout=problem.layout,
            dbias=problem.bias_shape is not None,
            logsumexp=problem.return_logsumexp,
        ),
        corner,
    )
    output, logsumexp = rectangle.attend(static, Arrays(query, key, value, bias))
    if logsumexp is not None and empty is not None:
        logsumexp = jnp.where(empty, -jnp.inf, logsumexp)
    return Result(output, logsumexp)


def _as_rows(problem: Problem, rows: jax.Array) -> jax.Array:
    """(b h i) as it stands beside the query."""
    return rearrange(rows, "b h i -> b h i 1" if problem.layout == "bhnd" else "b h i -> b i h 1")
