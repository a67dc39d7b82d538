"""`attend` and `explain`: normalise the call once into a frozen `Problem`, ask dispatch, run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attend_jax import dispatch
from attend_jax import sharding as shards
from attend_jax.masks import CAUSAL
from attend_jax.problem import Operands, Problem, Result
from attend_jax.validation import check_dropout_rng, check_options, check_tensors, one_of


def attend(
    query: Float[Array, "b h i d"],
    key: Float[Array, "b hk j d"],
    value: Float[Array, "b hk j e"],
    bias: Float[Array, ...] | None = None,
    *,
    mask: Bool[Array, ...] | None = None,
    causal: bool | str = False,
    scale: float | jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
    dropout_mask: Bool[Array, "b h i j"] | None = None,
    layout: str = "bhnd",
    return_logsumexp: bool = False,
    implementation: str = "auto",
    precision: Any = None,
    sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> Any:
    """softmax(query · keyᵀ * scale + bias, masked) · value, with dropout on the softmax's weights.

    Args:
      query, key, value: one floating dtype. `h` is a multiple of `hk` (grouped heads, S7 and S13): query head n
        reads key head n // (h / hk). With `layout="bnhd"` (S14) they and the output are (b, n, h, d).
      bias: added to the scaled scores (S2); broadcasts to (b, h, i, j). In query's dtype, narrower, or float32
        with 16-bit inputs. Its gradient has its own shape and dtype.
      mask: True = attend (S12); broadcasts to (b, h, i, j), and is combined with `causal` by AND.
      causal: False; True or "lower_right": row r attends key c when c <= r + (j - i) (S3); "upper_left": when
        c <= r (S8, S10).
      scale: multiplies the scores; None means head_dim ** -0.5 (S1). May be traced.
      dropout_rate: the share of weights that is dropped, between 0 and 1; the others are divided by
        1 - dropout_rate (S6). A functional form has no evaluation mode: pass 0 there.
      dropout_rng: a JAX random key; needed when weights are dropped. Which ones depends on the key and on a
        weight's batch, head, row and column alone, whatever the implementation, sharding or recomputation.
      dropout_mask: True = keep (S16); instead of `dropout_rng`, so that two frameworks drop the same weights.
      return_logsumexp: also return the log of the sum of the exponentials of the allowed scores (S15), float32
        (float64 for float64 inputs), differentiable; -inf with zero gradient for a row that may attend nothing.
      implementation: "auto", "blockwise", "cudnn", "einsum" or "triton". None of them changes what is computed, as
        long as no input holds NaN or inf (S17); see `explain`. Only "einsum" has forward mode (jax.jvp, jax.jacfwd),
        and it holds all scores in memory. "blockwise" has second derivatives (jax.hessian, jvp of grad), in memory
        linear in the lengths; the kernels "cudnn" and "triton", which "auto" takes on CUDA, have none.
      precision: of the products, as jax.lax.dot_general takes it. None means accurate to fp32 for fp32 inputs on
        every device, unless `jax.default_matmul_precision` is set.
      sharding: how query is cut along the axes of a mesh: a jax.sharding.NamedSharding, or a PartitionSpec such as
        ("data", "model", "seq") in layout "bhnd" where the mesh is that of `jax.set_mesh`; None means as its type says
        (explicit mesh axes), or left to the compiler. Key and value are cut alike. Batch and heads need no
        communication; a length goes round a ring, in memory linear in one part of it, with bias and mask cut along
        their rows. Inside `jax.shard_map` the arrays are one device's part, with all columns of bias and mask.

    Returns:
      The output in query's dtype, or (output, logsumexp). A row that may attend nothing attends every key
      uniformly (S4).

    Raises:
      TypeError, ValueError: what was expected, what came, what to do; before any compute.

    >>> query = jnp.array([[[[0.0], [1.0]]]])
    >>> attend(query, jnp.zeros((1, 1, 2, 1)), jnp.array([[[[1.0], [3.0]]]]), causal=True).flatten().tolist()
    [1.0, 2.0]
    """
    output, logsumexp = compute(
        query, key, value, bias, mask=mask, causal=causal, scale=scale, dropout_rate=dropout_rate,
        dropout_rng=dropout_rng, dropout_mask=dropout_mask, layout=layout, return_logsumexp=return_logsumexp,
        implementation=implementation, precision=precision, sharding=sharding,
    )  # fmt: skip
    return (output, logsumexp) if return_logsumexp else output


def compute(
    query: Any, key: Any, value: Any, bias: Any, *, layout: str, implementation: str, sharding: Any,
    broadcast_dropout: bool = False, **options: Any,
) -> Result:  # fmt: skip
    """`attend`, always with both results; and `broadcast_dropout`: drop the same weights in every batch and head."""
    cut = shards.of(query, sharding, layout)
    problem, operands = _normalise(
        query, key, value, bias, layout=layout, implementation=implementation,
        parts=1 if cut is None else cut.columns, **options,
    )  # fmt: skip
    problem = dataclasses.replace(problem, broadcast_dropout=broadcast_dropout)
    if cut is None:
        return dispatch.run(problem, operands, implementation)
    return shards.run(problem, operands, implementation, cut)


def explain(
    query: Float[Array, "b h i d"],
    key: Float[Array, "b hk j d"],
    value: Float[Array, "b hk j e"],
    bias: Float[Array, ...] | None = None,
    *,
    mask: Bool[Array, ...] | None = None,
    causal: bool | str = False,
    scale: float | jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: jax.Array | None = None,
    dropout_mask: Bool[Array, "b h i j"] | None = None,
    layout: str = "bhnd",
    return_logsumexp: bool = False,
    implementation: str = "auto",
    precision: Any = None,
    sharding: jax.sharding.NamedSharding | jax.sharding.PartitionSpec | None = None,
) -> dispatch.Explanation:
    """Which implementation `attend` runs for the same arguments on the default device, and why not the others.

    Arrays may be jax.ShapeDtypeStruct; nothing is computed.

    >>> shape = jax.ShapeDtypeStruct((1, 8, 256, 64), jnp.float32)
    >>> print(explain(shape, shape, shape))
    blockwise runs: long: memory linear in the length
      cudnn: takes float16 and bfloat16 only; got float32
      einsum: able, but not chosen: auto keeps it for other sizes (short: the scores stay in the cache)
      tokamax: is proved for bfloat16 only; got float32
      triton: there is no CUDA device
    """
    cut = shards.of(query, sharding, layout)
    problem, _ = _normalise(
        query, key, value, bias, mask=mask, causal=causal, scale=scale, dropout_rate=dropout_rate,
        dropout_rng=dropout_rng, dropout_mask=dropout_mask, layout=layout, return_logsumexp=return_logsumexp,
        implementation=implementation, precision=precision, parts=1 if cut is None else cut.columns,
    )  # fmt: skip
    return dispatch.explain(problem, implementation) if cut is None else shards.explain(problem, implementation, cut)


def _normalise(
    query: Any, key: Any, value: Any, bias: Any, *, mask: Any, causal: Any, scale: Any, dropout_rate: Any,
    dropout_rng: Any, dropout_mask: Any, layout: Any, return_logsumexp: bool, implementation: Any, precision: Any,
    parts: int = 1,
) -> tuple[Problem, Operands]:  # fmt: skip
    one_of("implementation", implementation, dispatch.NAMES)
    check_options(causal=causal, scale=scale, dropout_rate=dropout_rate, layout=layout, precision=precision)
    check_tensors(query, key, value, bias, mask, dropout_mask, layout=layout, dropout_rate=dropout_rate, parts=parts)
    # JAX makes float32 of NumPy's float64 unless x64 is on; the problem must know the dtype that is computed in.
    query, key, value, bias, mask, dropout_mask = (
        jnp.asarray(array) if isinstance(array, np.ndarray) else array
        for array in (query, key, value, bias, mask, dropout_mask)
    )
    dropout = None if dropout_rate == 0 else "rng" if dropout_mask is None else "mask"
    if dropout == "rng":
        check_dropout_rng(dropout_rng)
    head, length = (1, 2) if layout == "bhnd" else (2, 1)
    bias, mask = _four_axes(bias), _four_axes(mask)
    if scale is None:
        scale = query.shape[3] ** -0.5
    traced = not isinstance(scale, (int, float))
    problem = Problem(
        batch=query.shape[0],
        heads=query.shape[head],
        kv_heads=key.shape[head],
        q_len=query.shape[length],
        kv_len=key.shape[length],
        head_dim=query.shape[3],
        value_dim=value.shape[3],
        dtype=np.dtype(query.dtype),
        bias_shape=None if bias is None else bias.shape,
        bias_dtype=None if bias is None else np.dtype(bias.dtype),
        mask_shape=None if mask is None else mask.shape,
        causal=CAUSAL[causal],
        scale=None if traced else float(scale),
        dropout_rate=float(dropout_rate),
        dropout=dropout,
        layout=layout,
        return_logsumexp=bool(return_logsumexp),
        precision=precision,
    )
    return problem, Operands(
        query=query,
        key=key,
        value=value,
        bias=bias,
        mask=mask,
        scale=jnp.asarray(scale) if traced else None,
        dropout_rng=dropout_rng if dropout == "rng" else None,
        dropout_mask=dropout_mask if dropout == "mask" else None,
    )


def _four_axes(array: Any) -> Any:
    if array is None or array.ndim == 4:
        return array
    shape = (1,) * (4 - array.ndim) + tuple(array.shape)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, array.dtype)
    return array.reshape(shape)
