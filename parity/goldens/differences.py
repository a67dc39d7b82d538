"""Two sets of named tensors, compared by name: what is missing, of another shape or dtype, or has other numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from parity.cases import Arrays


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor of two files. `reason` is "" where they are equal, which is within `ulps` units in the last place."""

    name: str
    reason: str = ""
    max_difference: float = 0.0
    ulps: int = 0
    worst_index: tuple[int, ...] | None = None


def differences(first: Arrays, second: Arrays, ulps: int = 0) -> Iterator[Difference]:
    """Every name of either. Whole numbers and booleans must be equal whatever `ulps` is."""
    for name in sorted({*first, *second}):
        if name not in second:
            yield Difference(name, "missing in the second")
        elif name not in first:
            yield Difference(name, "only in the second")
        else:
            yield _difference(name, first[name], second[name], ulps)


def _difference(name: str, first: np.ndarray, second: np.ndarray, ulps: int) -> Difference:
    if first.shape != second.shape:
        return Difference(name, f"shape {first.shape} and {second.shape}")
    if first.dtype != second.dtype:
        return Difference(name, f"dtype {first.dtype} and {second.dtype}")
    if not first.size:
        return Difference(name)
    distance, lone = distances(first, second)
    wrong = lone | (distance > (0 if first.dtype.kind in "biu" else ulps))
    farthest = np.argmax(np.where(lone, np.iinfo(np.uint64).max, distance))
    at = tuple(int(n) for n in np.unravel_index(int(farthest), lone.shape))
    with np.errstate(all="ignore"):
        apart = np.abs(_wide(first) - _wide(second))
    apart = np.where(distance == 0, 0.0, apart)  # two infinities, too
    largest = float(np.max(apart, initial=0.0, where=~lone))
    most = int(np.max(distance, initial=0, where=~lone))
    if not wrong.any():
        return Difference(name, "", largest, most, at)
    count, size = int(wrong.sum()), first.size
    words = f"{count} of {size} differ ({100 * count / size:.3g} %), at most by {largest:.3g}, {most} ulps"
    if lone.any():
        words += f"; NaN in one only: {int(lone.sum())}"
    words += f"; worst at {list(at)}: {_shown(first[at])} and {_shown(second[at])}"
    return Difference(name, words, largest, most, at)


def distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many numbers of the dtype lie between, element by element, and where one of the two is NaN. Whole numbers
    count as themselves; 0 and -0 are alike, and NaN is like any NaN.

    >>> distances(np.float32([1, -0.0]), np.float32([1 + 2**-22, 0]))[0].tolist()
    [2, 0]
    """
    lone = np.zeros(first.shape, bool)
    if first.dtype.kind == "c":
        real, imaginary = (distances(getattr(first, part), getattr(second, part)) for part in ("real", "imag"))
        return np.maximum(real[0], imaginary[0]), real[1] | imaginary[1]
    if first.dtype.kind in "biu":
        low, high = np.minimum(first, second), np.maximum(first, second)
    else:
        both = np.isnan(first) & np.isnan(second)
        lone = np.isnan(first) ^ np.isnan(second)
        ranks = _rank(first), _rank(second)
        low, high = (np.where(both | lone, 0, edge(*ranks)) for edge in (np.minimum, np.maximum))
    # Modulo 2**64, which is right for the difference of any two 64-bit numbers.
    return high.astype(np.uint64) - low.astype(np.uint64), lone


def _rank(array: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the real ones, neighbours next to each other."""
    bits = np.ascontiguousarray(array).view(f"i{array.dtype.itemsize}").astype(np.int64)
    sign = np.int64(-1) << np.int64(8 * array.dtype.itemsize - 1)
    return np.where(bits < 0, sign - bits, bits)


def _wide(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "c" else array.astype(np.float64)


def _shown(value: np.generic) -> str:
    return str(value) if value.dtype.kind in "biuc" else f"{float(value):.9g}"
