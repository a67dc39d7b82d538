"""Where in a tensor the error sits, and how large it is in units of the last place: small enough for every report."""

from __future__ import annotations

import dataclasses
import math

import ml_dtypes
import numpy as np

from parity.tensors import AT_ONCE, dtype_of

# At most so many blocks along each side of the grid.
BLOCKS = 24
# A block's letter: "." is no error at all, "i" above half the bound to the whole of it, each letter further twice as
# much, "y" all that is finite beyond, "z" not finite.
_BOUND = ord("i")
# Errors below 1/16 ulp share a bin, as do those above 2^30 ulps.
_FINEST, _COARSEST = -4, 30


@dataclasses.dataclass(frozen=True)
class Picture:
    """A verdict's errors as a person sees them at a glance.

    The tensor is folded to two axes, its last against all others. Each string of `grid` is a row of blocks, each letter
    the largest error / bound in a block. `groups` is how many equal parts the rows have, one for each index of the axes
    before the last two; 1 where those are none or too many. `folded` says so in words. `histogram` counts the errors:
    "exact", "nan" (not finite where it should be, or the reverse), and k for more than 2^(k-1), at most 2^k ulps.
    """

    grid: tuple[str, ...]
    groups: int
    folded: str
    histogram: tuple[tuple[str, int], ...]


def draw(ratio: np.ndarray, error: np.ndarray, truth: np.ndarray, dtype: str) -> Picture:
    """The picture of error / bound and of |candidate - truth|, all of one shape and not empty; inf where misplaced.

    A truth beyond its dtype is as that has it.
    """
    shape = ratio.shape
    columns = shape[-1] if shape else 1
    rows = shape[-2] if len(shape) > 1 else 1
    leading = math.prod(shape[:-2])
    groups = leading if leading <= BLOCKS else 1
    height = rows if groups == leading else rows * leading
    edges = _edges(height, BLOCKS // groups)
    starts = (np.arange(groups)[:, None] * height + edges).ravel()
    ends, whole = (*starts[1:], rows * leading), ratio.reshape(-1, columns)
    blocks = np.stack([whole[start:end].max(axis=0) for start, end in zip(starts, ends, strict=True)])
    blocks = np.maximum.reduceat(blocks, _edges(columns, BLOCKS), axis=1)
    return Picture(_letters(blocks), groups, _words(shape), _histogram(error, truth, dtype))


def _edges(length: int, blocks: int) -> np.ndarray:
    """Where each block begins: as equal as whole numbers allow."""
    blocks = min(length, blocks)
    return np.arange(blocks) * length // blocks


def _letters(blocks: np.ndarray) -> tuple[str, ...]:
    mantissa, exponent = np.frexp(blocks)
    twos = exponent - (mantissa == 0.5)  # the least k with block <= 2^k
    codes = np.clip(_BOUND + twos, ord("a"), ord("y"))
    codes = np.where(np.isfinite(blocks), np.where(blocks == 0, ord("."), codes), ord("z"))
    return tuple(bytes(row).decode() for row in codes.astype(np.uint8))


def _words(shape: tuple[int, ...]) -> str:
    """For example "2·4·5 rows × 8 columns"."""
    rows, columns = "·".join(map(str, shape[:-1])) or "1", str(shape[-1] if shape else 1)
    return f"{rows} row{'s' * (rows != '1')} × {columns} column{'s' * (columns != '1')}"


def _histogram(error: np.ndarray, truth: np.ndarray, dtype: str) -> tuple[tuple[str, int], ...]:
    kind, exact, bad = ml_dtypes.finfo(dtype), 0, 0
    counts = np.zeros(_COARSEST - _FINEST + 1, np.int64)
    error, truth = error.reshape(-1), truth.reshape(-1)
    for start in range(0, error.size, AT_ONCE):
        part = error[start : start + AT_ONCE]
        with np.errstate(over="ignore"):
            right = truth[start : start + AT_ONCE].astype(dtype_of(dtype)).astype(np.float64)
        power, _ = _power(right)
        # One unit in the last place of a number m * 2^e with m in [1/2, 1) is 2^(e - 1 - nmant).
        place = np.maximum(power - 1, kind.minexp) - kind.nmant
        exponent, half = _power(part)
        bins = np.clip(exponent - half - place, _FINEST, _COARSEST) - _FINEST
        some = np.isfinite(part)
        bad += part.size - int(np.count_nonzero(some))
        some &= part > 0
        counts += np.bincount(bins if some.all() else bins[some], minlength=len(counts))
    exact = int(error.size - counts.sum() - bad)
    found = [("exact", exact), *((str(n + _FINEST), int(count)) for n, count in enumerate(counts)), ("nan", bad)]
    return tuple((label, count) for label, count in found if count)


def _power(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`frexp` for what is normal in float64: e of m * 2^e with m in [1/2, 1), and whether m is 1/2. What is smaller,
    or 0, gets an e below all others, and what is not finite one that means nothing."""
    bits = np.ascontiguousarray(numbers, np.float64).view(np.int64)
    return ((bits >> 52) & 0x7FF) - 1022, (bits & ((1 << 52) - 1)) == 0
