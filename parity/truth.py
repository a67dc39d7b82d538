"""The third, independent writing of S1 to S17: NumPy, float64, one batch and head at a time, and its error analysis.

`attention` returns for every quantity the truth and two widths, A and A0: sums of absolute values along the
computation, so that to first order a computation with unit roundoff u, which flushes numbers below eta to zero, is
off by a small multiple of u * A + eta * A0. docs/criterion.md derives them; the letters are the same there.

It uses neither attend_torch nor attend_jax, and no einsum: every product below is of two matrices.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from parity.cases import Arrays, Case


@dataclasses.dataclass
class Width:
    """The truth of one quantity, with the widths of its rounding (A) and of its underflow (A0)."""

    truth: np.ndarray
    a: np.ndarray
    a0: np.ndarray

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> Width:
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def add(self, index: Any, truth: np.ndarray, a: np.ndarray, a0: np.ndarray) -> None:
        """Add what one batch and head contributes; a shared key/value head or a broadcast bias gets several."""
        for total, part in ((self.truth, truth), (self.a, a), (self.a0, a0)):
            total[index] += part


def attention(case: Case, arrays: Arrays) -> dict[str, Width]:
    """Truth and widths of every quantity of an attention case, in the case's own layout and shapes."""
    heads_first = case.arguments.get("layout", "bhnd") == "bhnd"

    def bhnd(array: np.ndarray) -> np.ndarray:
        return (array if heads_first else array.transpose(0, 2, 1, 3)).astype(np.float64)

    query, key, value, g_out = (bhnd(arrays[name]) for name in ("query", "key", "value", "cotangent_output"))
    (batch, heads, q_len, head_dim), kv_heads, kv_len = query.shape, key.shape[1], key.shape[2]
    scores_shape = (batch, heads, q_len, kv_len)
    scale = case.arguments.get("scale")
    scale = head_dim**-0.5 if scale is None else scale
    lowest = _lowest(arrays["query"].dtype)
    allowed = np.broadcast_to(_allowed(case, arrays, q_len, kv_len), scores_shape)
    multiplier = np.broadcast_to(_dropout(case, arrays), scores_shape)
    bias = arrays.get("bias")
    # The axes of the bias against those of the scores: 4, leading ones of size 1.
    bias4 = None if bias is None else bias.astype(np.float64).reshape((1,) * (4 - bias.ndim) + bias.shape)
    wide_bias = None if bias4 is None else np.broadcast_to(bias4, scores_shape)
    g_lse = arrays.get("cotangent_logsumexp")

    result = {
        "output": Width.zeros((batch, heads, q_len, value.shape[-1])),
        "dquery": Width.zeros(query.shape),
        "dkey": Width.zeros(key.shape),
        "dvalue": Width.zeros(value.shape),
    }
    if bias4 is not None:
        result["dbias"] = Width.zeros(bias4.shape)
    if g_lse is not None:
        result["logsumexp"] = Width.zeros(scores_shape[:3])

    for b in range(batch):
        for h in range(heads):
            kv = h // (heads // kv_heads)
            one = _head(
                query[b, h], key[b, kv], value[b, kv], g_out[b, h],
                None if wide_bias is None else wide_bias[b, h], allowed[b, h], multiplier[b, h],
                None if g_lse is None else g_lse[b, h].astype(np.float64), scale, lowest,
            )  # fmt: skip
            index = {"dkey": (b, kv), "dvalue": (b, kv)}
            for name, width in one.items():
                if name == "dbias":
                    continue
                result[name].add(index.get(name, (b, h)), *width)
            if bias4 is not None:
                where = (b if bias4.shape[0] > 1 else 0, h if bias4.shape[1] > 1 else 0)
                result["dbias"].add(where, *(_summed(part, bias4.shape[2:]) for part in one["dbias"]))

    if "dbias" in result:
        # A0 counts one per element of the result, not one per batch and head that went into it.
        result["dbias"].a0 += 1
        assert bias is not None
        result["dbias"] = _map(result["dbias"], lambda x: x.reshape(bias.shape))
    if not heads_first:
        for name in ("output", "dquery", "dkey", "dvalue"):
            result[name] = _map(result[name], lambda x: x.transpose(0, 2, 1, 3))
    return result


def vanishing(case: Case, arrays: Arrays) -> frozenset[str]:
    """The quantities that are zero by construction; any other that is zero everywhere is a fault of the harness."""
    scores = {"dquery", "dkey", "dbias"}
    first, second = (1, 2) if case.arguments.get("layout", "bhnd") == "bhnd" else (2, 1)
    shape = arrays["query"].shape
    scores_shape = (shape[0], shape[first], shape[second], arrays["key"].shape[second])
    if 0 in scores_shape:
        return frozenset(scores | {"output", "dvalue", "logsumexp"})
    through_lse = "cotangent_logsumexp" in arrays
    allowed = np.broadcast_to(_allowed(case, arrays, *scores_shape[2:]), scores_shape)
    kept = np.broadcast_to(_dropout(case, arrays), scores_shape) > 0
    # A row with one key, or none, has nothing to choose; a row that is dropped whole has nothing to pass on.
    chooses = (allowed.sum(axis=-1) > 1) & kept.any(axis=-1) & (arrays["value"].shape[-1] > 0)
    gone = set() if chooses.any() or (through_lse and allowed.any()) else set(scores)
    if not kept.any() or arrays["value"].shape[-1] == 0:
        gone |= {"output", "dvalue"}
    if not allowed.any():
        gone |= {"logsumexp"}
    if case.arguments.get("scale") == 0:
        gone |= {"dquery", "dkey"}
    if "bias" in arrays and arrays["bias"].shape[-1] == 1 and not through_lse:
        gone |= {"dbias"}  # a bias that is constant along j changes nothing
    return frozenset(gone)


def _head(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, bias: np.ndarray | None, allowed: np.ndarray,
    m: np.ndarray, gl: np.ndarray | None, scale: float, lowest: float,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """One batch and head: q (i d), k (j d), v (j e), g (i e); bias, allowed, m (i j); gl (i)."""
    (i, j), e = m.shape, v.shape[1]
    absolute, s_abs = np.abs, abs(scale)

    # The rules.
    s = q @ k.T * scale  # S1
    if bias is not None:
        s = s + bias  # S2
    filled = np.where(allowed, s, lowest)  # S3
    p = np.exp(filled - _row_max(filled))
    p = p / p.sum(axis=1, keepdims=True)
    out = (m * p) @ v  # S6
    dp = m * (g @ v.T)
    delta = (p * dp).sum(axis=1, keepdims=True)
    finite_or_nan = allowed & (s != -np.inf)
    summed = finite_or_nan.any(axis=1, keepdims=True)  # rows whose log-sum-exp is not -inf (S15)
    through_lse = np.zeros((i, 1)) if gl is None else np.where(summed, gl[:, None], 0)
    ds = np.where(allowed, p * (dp - delta + through_lse), 0)
    dq, dk, dv = scale * (ds @ k), scale * (ds.T @ q), (m * p).T @ g

    # Rounding: A.
    bias_width = 0 if bias is None else absolute(bias)
    ell = np.where(finite_or_nan, s_abs * (absolute(q) @ absolute(k).T) + bias_width + absolute(s), 0)
    e_p = p * (1 + ell + (p * ell).sum(axis=1, keepdims=True))
    a_dp = m * (absolute(g) @ absolute(v).T)
    a_delta = (e_p * absolute(dp) + p * a_dp).sum(axis=1, keepdims=True)
    slope = absolute(dp - delta + through_lse)
    a_ds = np.where(allowed, e_p * slope + p * (a_dp + a_delta + absolute(through_lse)), 0)

    # Underflow: A0.
    empty = ~allowed.any(axis=1, keepdims=True)
    p0 = (allowed | empty) + p * j
    d0 = p0 * slope + p * ((p0 * absolute(dp)).sum(axis=1, keepdims=True) + j + 2 * e * m.max(initial=0)) + 1
    d0 = np.where(allowed, d0, 0)

    quantities = {
        "output": (out, (m * e_p) @ absolute(v), (m * p0) @ absolute(v) + j),
        "dquery": (dq, s_abs * (a_ds @ absolute(k)), s_abs * (d0 @ absolute(k) + j) + 1),
        "dkey": (dk, s_abs * (a_ds.T @ absolute(q)), s_abs * (d0.T @ absolute(q) + i) + 1),
        "dvalue": (dv, (m * e_p).T @ absolute(g), (m * p0).T @ absolute(g) + i),
        "dbias": (ds, a_ds, d0),
    }
    if gl is not None:
        with np.errstate(divide="ignore"):
            top = _row_max(np.where(finite_or_nan, s, -np.inf))
            top = np.where(summed, top, 0)
            total = np.where(finite_or_nan, np.exp(s - top), 0).sum(axis=1)
            lse = np.where(summed[:, 0], np.log(total) + top[:, 0], -np.inf)
        a_lse = (p * (1 + ell)).sum(axis=1) + np.where(summed[:, 0], absolute(lse), 0)
        quantities["logsumexp"] = (lse, a_lse, np.zeros(i))
    return quantities


def _row_max(x: np.ndarray) -> np.ndarray:
    return x.max(axis=1, keepdims=True, initial=-np.inf)


def _allowed(case: Case, arrays: Arrays, q_len: int, kv_len: int) -> np.ndarray:
    """S3, S8, S10, S12: written from the index rule, row by row and key by key."""
    causal = case.arguments.get("causal", False)
    if causal is True:
        causal = "upper_left" if case.arguments.get("flash", False) else "lower_right"
    row, column = np.indices((q_len, kv_len))
    last = {False: np.inf, "upper_left": 0, "lower_right": kv_len - q_len}[causal]
    allowed = column <= row + last
    return allowed & arrays["mask"] if "mask" in arrays else allowed


def _dropout(case: Case, arrays: Arrays) -> np.ndarray:
    """What each weight is multiplied with (S6, S16)."""
    rate = case.arguments.get("dropout", 0.0)
    if "dropout_mask" not in arrays:
        return np.ones(())
    return np.where(arrays["dropout_mask"], 1 / (1 - rate), 0.0) if rate < 1 else np.zeros(())


def _lowest(dtype: np.dtype) -> float:
    """The lowest finite number of a dtype, from its definition."""
    exponent, mantissa = {"float16": (15, 10), "bfloat16": (127, 7), "float32": (127, 23), "float64": (1023, 52)}[
        dtype.name
    ]
    return -(2.0 - 2.0**-mantissa) * 2.0**exponent


def _summed(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum (i j) to the last two axes of a bias, each 1 or full."""
    for axis, size in enumerate(shape):
        if size == 1 and part.shape[axis] != 1:
            part = part.sum(axis=axis, keepdims=True)
    return part


def _map(width: Width, function: Any) -> Width:
    return Width(function(width.truth), function(width.a), function(width.a0))
