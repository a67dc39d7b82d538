"""What travels: NumPy arrays, no framework. The judge reads this without loading torch."""

from __future__ import annotations

import dataclasses

import numpy as np

from parity.criterion import REFERENCE_FACTOR, UNDERFLOW, UNIT_ROUNDOFF

# Of the spread of eight runs: rounding errors that are normally distributed pass 4.5 times theirs once in 150,000, and
# a spread estimated from 8 runs is itself 25 % off. docs/criterion.md has the measurements.
SPREAD_FACTOR = 6.0


@dataclasses.dataclass(frozen=True)
class Rounding:
    """The arithmetic that is judged: the unit roundoff of its dtype and the smallest number that is not flushed."""

    unit: float
    smallest: float

    @classmethod
    def of(cls, dtype: str) -> Rounding:
        """The rounding of "float32", "bfloat16", "float16" or "float64".

        >>> Rounding.of("bfloat16").unit
        0.00390625
        """
        if dtype not in UNIT_ROUNDOFF:
            raise ValueError(f"expected a dtype of {', '.join(UNIT_ROUNDOFF)}, got {dtype!r}")
        return cls(UNIT_ROUNDOFF[dtype], UNDERFLOW[dtype])


@dataclasses.dataclass(frozen=True)
class Spread:
    """How far rounding carried the results of `runs` noisy runs from the truth.

    `results`: for each floating result the root mean square of run - truth, element by element and at least half its
    row's, in the result's own shape and unit; float32 (eight runs say no more), rounded up. `uncertain`: for each
    integer or boolean result whether any run had another value there. `unruled`: how often a run met an op that has no
    width rule, by name. `flips`: how many elements of a discrete op (a comparison, argmax, top-k, round, a cast to
    integers …) came out otherwise in some run.
    """

    results: dict[str, np.ndarray]
    uncertain: dict[str, np.ndarray]
    unruled: dict[str, int]
    flips: dict[str, int]
    runs: int


@dataclasses.dataclass(frozen=True)
class Known:
    """What float64 says of a computation: its results there, and how far rounding carries others from them."""

    truth: dict[str, np.ndarray]
    spread: Spread


def bound(reference_error: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """What |candidate - truth| may be: 2 * max |reference - truth| + 6 * spread, in the shape of the spread.

    The maximum is over the whole tensor, for outputs and gradients alike. Elements whose error is not finite are left
    out of it: where NaN and inf may stand is judged before the numbers.

    >>> bound(np.array([1.0, -3.0]), np.array([0.5, 0.0]))
    array([9., 6.])
    """
    error = np.abs(np.asarray(reference_error, np.float64))
    worst = np.max(error, initial=0.0, where=np.isfinite(error))
    return REFERENCE_FACTOR * worst + SPREAD_FACTOR * np.asarray(spread, np.float64)
