"""Attention by tokamax's Mosaic kernels for Hopper and Blackwell: an optional extra, `attend-jax[tokamax]`.

Only its public function is called. What its arguments cannot say exactly as S1 to S17 have it is refused, and not
rewritten: masks and rows that are masked to nothing, causal rectangles, dropout, the log-sum-exp. What its kernels get
wrong is refused too. A bias may broadcast over batch and heads and has its gradient; for that the kernel writes the
gradient of all scores, in the bias' dtype: memory is linear in the length only without one. No forward mode and no
second derivatives; `implementation="einsum"` has both.

https://github.com/openxla/tokamax
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

from attend_jax.problem import Operands, Problem, Result

MAX_HEAD_SIZE = 128
# What the backward kernels of tokamax 0.0.17 take in one step: beyond the end of a length that is no multiple of it
# they seem to read what lies there, and the gradients of key and value may be NaN (docs/evidence/h200).
_STEP = 128
# The kernels that have a backward pass are written for these two, major version of the compute capability.
_CAPABILITIES = (9, 10)


def refusal(problem: Problem) -> str | None:
    """Why tokamax cannot do this here, found out without tracing the problem."""
    if problem.dtype != jnp.bfloat16:
        return f"is proved for bfloat16 only; got {problem.dtype}"
    if not all(isinstance(size, int) for size in (*problem.scores_shape, problem.kv_heads)):
        return "takes no symbolic sizes"
    if 0 in (*problem.scores_shape, problem.value_dim):
        return "takes no empty arrays"
    if problem.q_len % _STEP or problem.kv_len % _STEP:
        return f"reads beyond lengths that are no multiples of {_STEP}; got {problem.q_len} and {problem.kv_len}"
    if problem.bias_shape is not None and 1 in problem.bias_shape[2:]:
        return "is not proved for a bias that broadcasts over a length"
    if problem.head_dim != problem.value_dim or problem.head_dim > MAX_HEAD_SIZE:
        return f"takes equal head sizes of at most {MAX_HEAD_SIZE}; got {problem.head_dim} and {problem.value_dim}"
    if problem.mask_shape is not None:
        return "its rows that are masked to nothing are not uniform (S4)"
    if problem.causal is not None and problem.q_len != problem.kv_len:
        return "its public function has no lower-right corner (S5)"
    if problem.dropout is not None:
        return "has no dropout"
    if problem.return_logsumexp:
        return "its public function does not return the log-sum-exp"
    if jax.sharding.get_abstract_mesh().manual_axes:
        return "inside jax.shard_map Pallas takes no part in the checks of what varies (check_vma)"
    return _unavailable()


@functools.cache
def _unavailable() -> str | None:
    if importlib.util.find_spec("tokamax") is None:
        return "tokamax is not installed: pip install 'attend-jax[tokamax]' (Python 3.12, jax 0.11.1)"
    try:
        capability = str(jax.local_devices(backend="cuda")[0].compute_capability)
    except RuntimeError:
        return "there is no CUDA device"
    if int(capability.split(".")[0]) not in _CAPABILITIES:
        return f"takes GPUs of compute capability 9 and 10; this one has {capability}"
    try:
        _tokamax()
    except Exception as error:  # whatever an optional package may do when it does not fit this JAX
        return f"tokamax does not import here: {type(error).__name__}: {error}"
    return None


def _tokamax() -> Any:
    return importlib.import_module("tokamax")


def run(problem: Problem, operands: Operands) -> Result:
    query, key, value, bias, _, scale, *_ = operands
    if scale is not None:  # the kernel takes a compile-time scale only
        query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    bhnd = problem.layout == "bhnd"
    if bhnd:
        query, key, value = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))
    output = _tokamax().dot_product_attention(
        query, key, value, bias=bias, scale=1.0 if problem.scale is None else problem.scale,
        is_causal=problem.causal is not None, implementation="mosaic",
    )  # fmt: skip
    return Result(jnp.swapaxes(output, 1, 2) if bhnd else output)
