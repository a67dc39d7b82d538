"""What the rest of the package sees: which problems the kernels take, and the function with its gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attend_jax import dropout, masks
from attend_jax.implementations.triton import backward, forward, plan
from attend_jax.implementations.triton.plan import Plan
from attend_jax.implementations.triton.tiles import Inputs, Saved
from attend_jax.problem import Operands, Problem, Result

INTERPRET = False  # tests run the kernels on a CPU
TUNING: plan.Tuning | None = None  # and sweeps other tiles than the table's


def refusal(problem: Problem) -> str | None:
    """Why the kernels cannot do this here, found out without tracing the problem."""
    if problem.dtype not in (jnp.float32, jnp.float16, jnp.bfloat16):
        return f"takes float16, bfloat16 and float32 only; got {problem.dtype}"
    if not all(isinstance(size, int) for size in (*problem.scores_shape, problem.kv_heads)):
        return "takes no symbolic sizes"
    if 0 in (*problem.scores_shape, problem.value_dim):
        return "takes no empty arrays"
    if max(problem.head_dim, problem.value_dim) > plan.MAX_HEAD_SIZE:
        return f"takes head sizes of at most {plan.MAX_HEAD_SIZE}; got {max(problem.head_dim, problem.value_dim)}"
    if not problem.is_16_bit and problem.precision is not None:
        return "multiplies float32 in split TF32 only; got a precision"
    if not problem.is_16_bit and getattr(jax.config, "jax_default_matmul_precision", None) is not None:
        return "multiplies float32 in split TF32 only; jax.default_matmul_precision is set"
    if _too_many(problem):
        return "takes no mask of 2**31 to 2**32 elements: Pallas indexes it in 32 bits"
    return None if INTERPRET else _unavailable()


def _too_many(problem: Problem) -> bool:
    shapes = [shape for shape in (problem.mask_shape, problem.dropout == "mask" and problem.scores_shape) if shape]
    return any(2**31 <= math.prod(shape) <= 2**32 for shape in shapes)


def _unavailable() -> str | None:
    """Triton's products in TF32 and bfloat16 need compute capability 8.0."""
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return "there is no CUDA device"
    capability = float(device.compute_capability)
    return None if capability >= 8 else f"takes GPUs of compute capability 8.0 on; this one has {capability}"


def run(problem: Problem, operands: Operands) -> Result:
    static = Plan(problem, TUNING or plan.tuning(problem), INTERPRET)
    words = empty = some_empty = None
    if problem.dropout == "rng":
        assert operands.dropout_rng is not None
        batch, head = (jnp.arange(size, dtype=jnp.uint32) for size in problem.scores_shape[:2])
        words = jnp.stack(dropout.head_key(operands.dropout_rng, batch[:, None], head))
    if problem.mask_shape is not None and problem.causal is not None:
        empty = ~jnp.any(masks.allowed(problem, operands.mask), axis=3, keepdims=True)
        some_empty = jnp.any(empty, axis=2, keepdims=True)
    scale = operands.scale
    inputs = Inputs(
        query=operands.query,
        key=operands.key,
        value=operands.value,
        bias=operands.bias,
        mask=operands.mask,
        scale=None if scale is None else scale.astype(jnp.float32).reshape(1),
        words=words,
        dropout_mask=operands.dropout_mask,
        empty=empty,
        some_empty=some_empty,
    )
    output, logsumexp = _attention(static, inputs)
    return Result(output, logsumexp if problem.return_logsumexp else None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: Plan, inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    output, logsumexp = forward.forward(static, inputs)
    return output, _natural(logsumexp)


def _natural(logsumexp: jax.Array) -> jax.Array:
    """As the caller knows it (S15): -inf for a row with no key."""
    return jnp.where(logsumexp == jnp.inf, -jnp.inf, logsumexp * math.log(2))


def _attention_fwd(static: Plan, inputs: Inputs) -> Any:
    output, logsumexp = forward.forward(static, inputs)
    return (output, _natural(logsumexp)), (inputs, output, logsumexp)


def _attention_bwd(static: Plan, residuals: Any, cotangents: Any) -> tuple[Inputs]:
    inputs, output, logsumexp = residuals
    cotangent, dlogsumexp = cotangents
    delta = jnp.sum(output.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=3)
    if static.problem.layout == "bnhd":
        delta = delta.swapaxes(1, 2)
    saved = Saved(cotangent, logsumexp, delta - dlogsumexp)
    dquery, row_sums = backward.dq(static, inputs, saved)
    dkey, dvalue, column_sums = backward.dkv(static, inputs, saved)
    dscale = None
    if inputs.scale is not None:
        dscale = jnp.sum(inputs.query.astype(jnp.float32) * dquery).reshape(1)
        dquery = (dquery * inputs.scale).astype(inputs.query.dtype)
    dbias = None
    if static.dbias == "tiles":
        dbias = backward.dbias(static, inputs, saved)
    elif inputs.bias is not None:
        sums = jnp.expand_dims(row_sums, 3) if static.dbias == "rows" else jnp.expand_dims(column_sums, 2)
        shared = [axis for axis in range(4) if inputs.bias.shape[axis] == 1]
        dbias = jnp.sum(sums, axis=shared, keepdims=True).astype(inputs.bias.dtype)
    return (Inputs(dquery, dkey, dvalue, bias=dbias, scale=dscale),)


_attention.defvjp(_attention_fwd, _attention_bwd)
