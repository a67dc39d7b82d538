"""Attention as two einsums around a softmax: any device, any dtype, every rule, and all of JAX's transformations.

It holds the (q_len, kv_len) scores in memory, several times over when differentiated.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.custom_derivatives import SymbolicZero

from attend_jax import dropout, masks
from attend_jax.problem import Operands, Problem, Result, scaled

# Grouped heads (S7, S13): query head n reads key head n // g, so heads are (k g). The output's rows of a key head are
# one axis, r; the scores' are two, because XLA:CPU makes the key's gradient by its fast routine if it sums over two.
_LAYOUTS = {
    "bhnd": ("b (k g) i d -> b k g i d", "bkgid,bkjd->bkgij", "bkrj,bkje->bkre", "b k (g i) e -> b (k g) i e"),
    "bnhd": ("b i (k g) d -> b i k g d", "bikgd,bjkd->bkgij", "bkrj,bjke->bkre", "b k (g i) e -> b i (k g) e"),
}


def refusal(problem: Problem) -> str | None:
    """Einsum does everything."""
    del problem
    return None


def run(problem: Problem, operands: Operands) -> Result:
    query, key, value, bias, mask, scale, *_ = operands
    if problem.kv_len == 0:  # a maximum over no keys does not exist (S1)
        nothing = jnp.full(problem.scores_shape[:3], -jnp.inf, problem.scores_dtype)
        return Result(jnp.zeros(problem.output_shape, problem.dtype), nothing if problem.return_logsumexp else None)

    group = problem.heads // max(problem.kv_heads, 1) or 1
    split, to_scores, to_output, join = _LAYOUTS[problem.layout]
    factor: Any = problem.scale if scale is None else scale
    # Where there are fewer keys than features the scores are the smaller array, and the one to be scaled. On a GPU that
    # is a part of the softmax, while scaling the query is a kernel of its own.
    late = problem.platform == "cuda" or problem.kv_len < problem.head_dim
    query, remaining = (query, factor) if late else scaled(query, factor, problem)
    scores = jnp.einsum(
        to_scores,
        rearrange(query, split, g=group),
        key,
        precision=problem.precision,
        preferred_element_type=problem.scores_dtype,
    ).reshape(problem.scores_shape)
    if remaining is not None:
        scores = scores * jnp.asarray(remaining, scores.dtype)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)

    keep = masks.allowed(problem, mask)
    filled = scores
    if keep is not None:
        # The inputs' lowest finite number, and not -inf: a row that may attend nothing is then uniform (S3, S4).
        filled = jnp.where(keep, scores, jnp.asarray(jnp.finfo(problem.dtype).min, scores.dtype))
    weights, total = _softmax(filled, problem)
    if problem.dropout is not None:
        weights = weights * dropout.factor(_kept(problem, operands), problem.dropout_rate, weights.dtype)

    rows = rearrange(weights.astype(problem.dtype), "b (k g) i j -> b k (g i) j", g=group)
    small = problem.platform == "cpu" and problem.kv_len < problem.value_dim
    output = rearrange((_turned if small else _attended)(problem, to_output, rows, value), join, g=group)
    if total is not None:
        output = output / (total if problem.layout == "bhnd" else rearrange(total, "b h i 1 -> b i h 1"))
    output = output.astype(problem.dtype)
    return Result(output, _logsumexp(scores, keep) if problem.return_logsumexp else None)


def _attended(problem: Problem, to_output: str, weights: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.einsum(
        to_output, weights, value, precision=problem.precision, preferred_element_type=problem.scores_dtype
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _turned(problem: Problem, to_output: str, weights: jax.Array, value: jax.Array) -> jax.Array:
    """`_attended`, whose gradient in the value is cheap on a CPU; the numbers are the same.

    That gradient multiplies by the weights from their other side, which XLA:CPU leaves to a slow routine (jax 0.10.2:
    1.15 ms for 0.16 with 7 keys of 64 features, 1.7 for 0.5 with 16). Of weights that lie turned around in memory it
    takes the fast one; the barrier keeps it from turning them back. Where they are no smaller than the cotangent
    nothing is gained.
    """
    return _attended(problem, to_output, weights, value)


@functools.partial(_turned.defjvp, symbolic_zeros=True)
def _tangent(
    problem: Problem, to_output: str, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    weights, value = primals
    dweights, dvalue = tangents
    parts = []
    if not isinstance(dweights, SymbolicZero):
        parts.append(_attended(problem, to_output, dweights, value))
    if not isinstance(dvalue, SymbolicZero):
        turned = jax.lax.optimization_barrier(rearrange(weights, "b k r j -> b k j r"))
        parts.append(_attended(problem, to_output.replace("bkrj", "bkjr"), turned, dvalue))
    return _attended(problem, to_output, weights, value), sum(parts[1:], parts[0])


def _softmax(scores: jax.Array, problem: Problem) -> tuple[jax.Array, jax.Array | None]:
    """The weights, and what the output is still to be divided by.

    On a CPU the division comes last where the output is the smaller array: it is linear. A GPU has one fused kernel for
    the whole softmax.
    """
    if problem.platform != "cpu" or problem.kv_len < problem.value_dim:
        return jax.nn.softmax(scores, axis=-1), None
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    return weights, jnp.sum(weights, axis=-1, keepdims=True)


def _kept(problem: Problem, operands: Operands) -> jax.Array:
    if operands.dropout_mask is not None:
        return operands.dropout_mask
    return dropout.whole(dropout.words(problem, operands), problem.dropout_rate, problem.scores_shape[2:])


def _logsumexp(scores: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Over the allowed keys (S15): -inf, with no gradient, where there is nothing to sum."""
    if keep is not None:
        scores = jnp.where(keep, scores, -jnp.inf)
    nothing = jnp.all(scores == -jnp.inf, axis=-1)
    finite = jnp.where(nothing[..., None], 0.0, scores)  # keeps -inf minus -inf out of the gradient
    return jnp.where(nothing, -jnp.inf, jax.nn.logsumexp(finite, axis=-1))
