"""Attention by cuDNN's fused kernel, through the public `jax.nn.dot_product_attention`.

The kernel knows less than S1 to S17, so everything it lacks is rewritten exactly, in this order:

    run       mask, empty rows          -> an additive bias, queries of empty rows set to zero
    _causal   rectangles, both corners  -> a square with the kernel's own causal flag, and rows without one
    _padded   odd lengths, head sizes   -> padding that cannot be seen
    _kernel   vmap                      -> one call an example

What needs none of that and comes as (b h n d) goes to the kernel as it is, by `attend_jax.private`.

Gradients follow from JAX's own rules for these steps and the kernel's for itself. What cannot be rewritten is
refused. The kernel has no forward mode and no second derivatives: `implementation="einsum"` has.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from attend_jax import masks, private
from attend_jax.problem import Operands, Problem, Result

_Bias = jax.Array | None
_Static = tuple[bool, float, int | None, str]  # causal, scale, keys that are seen, layout


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
    if problem.return_logsumexp:
        return "its log-sum-exp is rounded to 16 bits and has no gradient (S15)"
    return _unavailable(problem)


def _unavailable(problem: Problem) -> str | None:
    """Ask JAX: is there a cuDNN, and does this GPU take the head size? In JAX's own words."""
    shape = jax.ShapeDtypeStruct((1, 2, 1, _head_size(problem.head_dim, problem.value_dim)), problem.dtype)
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), shape, shape, shape)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).rstrip(".")
    return None


def run(problem: Problem, operands: Operands) -> Result:
    query, key, value, bias, mask, scale, *_ = operands
    if _straight(problem) and private.cudnn_on_bhnd() is not None:
        assert problem.scale is not None
        static = (problem.causal is not None, problem.scale, None, "bhnd")
        return Result(_kernel(static, query, key, value, None))
    if problem.layout == "bhnd":
        query, key, value = (rearrange(x, "b h n d -> b n h d") for x in (query, key, value))
    static_scale = 1.0 if problem.scale is None else problem.scale
    if scale is not None:  # the kernel takes a compile-time scale only
        query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    q_len, kv_len = problem.q_len, problem.kv_len
    if bias is not None:
        # An fp32 bias has given NaN gradients (jax#32242), one that broadcasts over a length fails (jax#28974).
        bias = jnp.broadcast_to(bias.astype(query.dtype), (*bias.shape[:2], q_len, kv_len))
    causal = problem.causal
    # A row of queries under a lower-right corner would be padded to a square; a bias costs less when it is short.
    short = causal == "lower_right" and 2 * q_len <= kv_len
    keep = masks.allowed(problem, mask) if mask is not None or (short and q_len > 1) else None
    if keep is not None or short:
        causal = None
    if keep is not None:
        # The kernel has no uniform rows (S4): a query of zeros that may attend everything makes one, and passes no
        # gradient to query and bias.
        empty = ~jnp.any(keep, axis=-1, keepdims=True)
        query = jnp.where(rearrange(empty, "b h i 1 -> b i h 1"), 0, query)
        bias = jnp.where(keep, 0 if bias is None else bias, _lowest(query.dtype))
        bias = jnp.where(empty, 0, bias).astype(query.dtype)
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], q_len, kv_len))
    output = _causal(query, key, value, bias, causal, static_scale)
    return Result(rearrange(output, "b n h e -> b h n e") if problem.layout == "bhnd" else output)


def _straight(problem: Problem) -> bool:
    """Whether the kernel takes (b h n d) arrays as they are: nothing to add, to pad, to square or to scale."""
    plain = problem.bias_shape is None and problem.mask_shape is None and problem.scale is not None
    even = problem.q_len % 2 == problem.kv_len % 2 == 0
    sizes = problem.head_dim == problem.value_dim and problem.head_dim % 8 == 0
    square = problem.causal is None or problem.q_len == problem.kv_len
    return problem.layout == "bhnd" and plain and even and sizes and square


def _causal(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: _Bias, corner: str | None, scale: float
) -> jax.Array:
    """Turn a causal rectangle into squares, which have one corner only, and rows that see everything."""
    q_len, kv_len = query.shape[1], key.shape[1]
    if corner is None or q_len == kv_len:
        return _padded(query, key, value, bias, corner is not None, scale)
    extra = abs(q_len - kv_len)
    if corner == "upper_left" and q_len < kv_len:  # no row sees the last keys
        return _padded(query, key[:, :q_len], value[:, :q_len], _columns(bias, 0, q_len), True, scale)
    if corner == "upper_left":  # the last rows see every key
        square = _padded(query[:, :kv_len], key, value, _rows(bias, 0, kv_len), True, scale)
        rest = _padded(query[:, kv_len:], key, value, _rows(bias, kv_len, q_len), False, scale)
        return jnp.concatenate([square, rest], axis=1)
    if q_len < kv_len:  # rows of padding in front make it a square
        query = jnp.pad(query, ((0, 0), (extra, 0), (0, 0), (0, 0)))
        bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (extra, 0), (0, 0)))
        return _padded(query, key, value, bias, True, scale)[:, extra:]
    mean = jnp.mean(value, axis=1, keepdims=True, dtype=jnp.float32).astype(value.dtype)  # rows that see no key: S4
    uniform = repeat(mean, "b 1 h e -> b n (h g) e", n=extra, g=query.shape[2] // value.shape[2])
    square = _padded(query[:, extra:], key, value, _rows(bias, extra, q_len), True, scale)
    return jnp.concatenate([uniform, square], axis=1)


def _padded(query: jax.Array, key: jax.Array, value: jax.Array, bias: _Bias, causal: bool, scale: float) -> jax.Array:
    """Pad what the kernel refuses, call it, and cut the padding off.

    Rows added at the end are dropped and get no cotangent. Keys added at the end are out of reach: of every real row
    of a causal square, behind the bias, or behind the kernel's own sequence lengths.
    """
    (_, q_len, _, head_dim), (_, kv_len, _, value_dim) = query.shape, value.shape
    size = _head_size(head_dim, value_dim)
    q_pad = _length(q_len, bias is not None) - q_len
    kv_pad = _length(kv_len, bias is not None) - kv_len
    query = _pad_to(query, q_pad, size)
    key, value = (_pad_to(x, kv_pad, size) for x in (key, value))
    if bias is not None:
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, kv_pad)), constant_values=_lowest(bias.dtype))
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, q_pad), (0, 0)))
    kv_seen = kv_len if kv_pad and bias is None and not causal else None
    return _kernel((causal, scale, kv_seen, "bnhd"), query, key, value, bias)[:, :q_len, :, :value_dim]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel(static: _Static, query: jax.Array, key: jax.Array, value: jax.Array, bias: _Bias) -> jax.Array:
    """The kernel, one call an example under vmap: JAX's own batching of it fails or sums what it must not (jax#39451).

    That rule has to sit inside a custom_vjp, so both passes are named here; the residuals are the kernel's own.
    """
    return jax.custom_batching.sequential_vmap(functools.partial(_call, static))(query, key, value, bias)


def _call(static: _Static, query: jax.Array, key: jax.Array, value: jax.Array, bias: _Bias) -> jax.Array:
    causal, scale, kv_seen, layout = static
    unmoved = private.cudnn_on_bhnd() if layout == "bhnd" else None
    if unmoved is not None:
        return unmoved(query, key, value, scale=scale, causal=causal)
    lengths = None if kv_seen is None else jnp.full(query.shape[:1], kv_seen, jnp.int32)
    return jax.nn.dot_product_attention(
        query, key, value, bias, scale=scale, is_causal=causal, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def _kernel_fwd(static, query, key, value, bias):  # type: ignore[no-untyped-def]
    def forward(*arrays):  # type: ignore[no-untyped-def]
        output, vjp = jax.vjp(functools.partial(_call, static), *arrays)
        return output, tuple(jax.tree.leaves(vjp))

    arrays = (query, key, value, bias)
    output, leaves = jax.custom_batching.sequential_vmap(forward)(*arrays)
    return output, (arrays, leaves)


def _kernel_bwd(static, residuals, cotangent):  # type: ignore[no-untyped-def]
    def backward(arrays, leaves, cotangent):  # type: ignore[no-untyped-def]
        structure = jax.eval_shape(lambda *a: jax.vjp(functools.partial(_call, static), *a)[1], *arrays)
        return jax.tree.unflatten(jax.tree.structure(structure), leaves)(cotangent)

    return jax.custom_batching.sequential_vmap(backward)(*residuals, cotangent)


_kernel.defvjp(_kernel_fwd, _kernel_bwd)


def _head_size(head_dim: int, value_dim: int) -> int:
    """The kernel wants one head size, a multiple of 8; zeros behind the real features change nothing."""
    return -(-max(head_dim, value_dim) // 8) * 8


def _length(length: int, biased: bool) -> int:
    """Even, because differentiating the kernel raises for odd lengths (still in jax 0.10.2).

    With a bias also not 64 beyond a multiple of 128: cuDNN's backward pass has given NaN there for rows whose
    log-sum-exp is below -88 (pytorch#196678).
    """
    length += length % 2
    return length + 64 if biased and length % 128 == 64 else length


def _pad_to(array: jax.Array, rows: int, features: int) -> jax.Array:
    return jnp.pad(array, ((0, 0), (0, rows), (0, 0), (0, features - array.shape[3])))


def _rows(bias: _Bias, start: int, stop: int) -> _Bias:
    return None if bias is None else bias[:, :, start:stop]


def _columns(bias: _Bias, start: int, stop: int) -> _Bias:
    return None if bias is None else bias[:, :, :, start:stop]


def _lowest(dtype: jax.typing.DTypeLike) -> float:
    """What hides a key behind the bias: below any score that is not itself a fill (S17).

    It is added to the score, not put in its place, so in float16 no finite number is low enough; no row is hidden as a
    whole, which would make NaN of -inf. In bfloat16 half the lowest, so that log2(e) times it stays finite.
    """
    return -jnp.inf if dtype == jnp.float16 else 0.5 * float(jnp.finfo(dtype).min)
