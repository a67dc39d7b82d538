"""From a case to its NumPy arrays: drawn from a seed, rounded to the case's dtypes, with special numbers put in.

A tensor's seed is hash(seed, case, tensor), so that no tensor depends on which others there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

from parity.cases import Case

# Elements that are gone through at a time: ten arrays of them in float64 fit a core's own cache.
AT_ONCE = 1 << 15

Edit = Callable[[dict[str, np.ndarray], np.random.Generator], None]


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of a name; NumPy itself has no bfloat16."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def generator(seed: int, case: str, tensor: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}|{case}|{tensor}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def make(case: Case, seed: int) -> dict[str, np.ndarray]:
    """All tensors of the case.

    >>> from parity.attention import Attention
    >>> make(Attention(q_len=3).case(), 0)["query"].shape
    (2, 4, 3, 8)
    """
    arrays = {}
    for spec in case.tensors:
        rng = generator(seed, case.name, spec.name)
        if spec.dtype == "bool":
            arrays[spec.name] = rng.random(spec.shape) < spec.std
        elif spec.range is not None and np.issubdtype(dtype_of(spec.dtype), np.integer):
            first, beyond = map(int, spec.range)
            arrays[spec.name] = rng.integers(first, beyond, spec.shape).astype(spec.dtype)
        elif spec.range is not None:
            arrays[spec.name] = rng.uniform(*spec.range, spec.shape).astype(dtype_of(spec.dtype))
        else:
            arrays[spec.name] = (rng.standard_normal(spec.shape) * spec.std).astype(dtype_of(spec.dtype))
    SPECIAL[case.values](arrays, generator(seed, case.name, "values"))
    return arrays


def _put(tensor: str, number: float) -> Edit:
    """One element of `tensor` becomes `number`."""

    def edit(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        array = arrays[tensor]
        array[tuple(int(rng.integers(size)) for size in array.shape)] = number

    return edit


def _row(tensor: str, number: float) -> Edit:
    """One row of `tensor`, all keys of a query, becomes `number`."""

    def edit(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        array = arrays[tensor]
        array[tuple(int(rng.integers(size)) for size in array.shape[:-1])] = number

    return edit


def _masked_key(tensor: str, number: float) -> Edit:
    """The last key, which a mask hides from every query, becomes `number`."""

    def edit(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        del rng
        arrays["mask"][..., -1] = False
        arrays["mask"][..., 0] = True
        arrays[tensor][:, :, -1, 0] = number

    return edit


def _empty_row(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """The mask leaves one row of queries nothing to attend (S4)."""
    mask = arrays["mask"]
    mask[tuple(int(rng.integers(size)) for size in mask.shape[:-1])] = False


def _empty_rows(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """The mask leaves no row anything to attend."""
    del rng
    arrays["mask"][...] = False


def _partly_subnormal(*tensors: str) -> Edit:
    """Half of the numbers become subnormal in float32 and bfloat16."""

    def edit(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        for tensor in tensors:
            array = arrays[tensor]
            small = np.where(rng.random(array.shape) < 0.5, 1e-39, 1.0)
            arrays[tensor] = (array.astype(np.float64) * small).astype(array.dtype)

    return edit


def _sparse(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """One number in 16 of query, key, value and the cotangent is kept, four times as large.

    Little cancels in such products, so at real sizes the bound of 16-bit arithmetic stays below the truth's spread.
    """
    for name in ("query", "key", "value", "cotangent_output"):
        array = arrays[name]
        arrays[name] = (array.astype(np.float64) * 4 * (rng.random(array.shape) < 1 / 16)).astype(array.dtype)


def _low_bias(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Sparse, and every score 100 lower: only the log-sum-exp changes, as in pytorch#196678."""
    _sparse(arrays, rng)
    arrays["bias"] = (arrays["bias"].astype(np.float64) - 100).astype(arrays["bias"].dtype)


def _near_overflow(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """The largest unscaled score is near 50,000, where float16 ends at 65,504."""
    del rng
    query, key = (arrays[name].astype(np.float64) for name in ("query", "key"))
    factor = np.sqrt(5e4 / np.abs(np.einsum("bhid,bhjd->bhij", query, key)).max())
    for name, array in (("query", query), ("key", key)):
        arrays[name] = (array * factor).astype(arrays[name].dtype)


def _identity_value(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """value is the identity, so that the output is the matrix of weights itself."""
    del rng
    value = arrays["value"]
    value[...] = np.eye(value.shape[-2], value.shape[-1])


SPECIAL: dict[str, Edit] = {
    "normal": lambda arrays, rng: None,
    "sparse": _sparse,
    "subnormal": _partly_subnormal("value", "cotangent_output"),
    "subnormal-query": _partly_subnormal("query", "key"),
    "near-overflow": _near_overflow,
    "low-bias": _low_bias,
    "identity-value": _identity_value,
    "empty-row": _empty_row,
    "empty-rows": _empty_rows,
    "nan-query": _put("query", np.nan),
    "nan-key": _put("key", np.nan),
    "nan-value": _put("value", np.nan),
    "nan-bias": _put("bias", np.nan),
    "inf-query": _put("query", np.inf),
    "inf-key": _put("key", np.inf),
    "inf-value": _put("value", np.inf),
    "inf-bias": _put("bias", np.inf),
    "-inf-value": _put("value", -np.inf),
    "-inf-bias": _put("bias", -np.inf),
    "-inf-bias-row": _row("bias", -np.inf),
    "masked-nan-key": _masked_key("key", np.nan),
    "masked-inf-key": _masked_key("key", np.inf),
    "masked-nan-value": _masked_key("value", np.nan),
}
