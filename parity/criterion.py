"""What a candidate is allowed to be off by. docs/criterion.md has the reasons and the measurements.

    |candidate - truth| <= 2 * max over (batch, head) |reference - truth|  +  2 * (u * A + eta * A0)

A criterion turns a case and its arrays into one `Expectation` a quantity. This is the one with a formula, for
attention; another source of cases brings another `Criterion`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from parity import truth
from parity.cases import Arrays, Case

# Two constants, no table of tolerances. If an honest run exceeds them, find out why before touching them.
REFERENCE_FACTOR = 2.0
ARITHMETIC_FACTOR = 2.0
# A reference beyond this multiple of u*A + eta*A0 does not compute section 3 of the design.
DEPARTURE_FACTOR = 16.0

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
# XLA on a CPU flushes float32's and bfloat16's subnormals to zero, not float16's.
UNDERFLOW = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-24}


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What one quantity should be: the truth in float64, and how far arithmetic alone may carry it, element by element.

    `shared` are the axes over which the reference's own error is taken at its largest. `dtype` and the truth's shape
    are what both sides must return. `zero` says that the truth is zero wherever it is finite, to float64's rounding;
    with `vanishing` it has to be, or holds NaN or inf, and is no sign of a case that compares nothing.
    """

    truth: np.ndarray
    width: np.ndarray
    dtype: str
    shared: tuple[int, ...]
    zero: bool = False
    vanishing: bool = False

    @property
    def says_something(self) -> bool:
        """The bound of arithmetic alone is below half the spread of the truth, which leaves room for the reference."""
        finite = np.isfinite(self.truth)
        if not finite.any():
            return True
        truth, width = self.truth[finite], self.width[finite]
        spread = truth.std() if truth.size > 1 else abs(truth.item())
        return bool(np.median(ARITHMETIC_FACTOR * width) < 0.5 * spread)


class Criterion(Protocol):
    """From a case and its arrays to what its quantities should be."""

    def __call__(self, case: Case, arrays: Arrays) -> Mapping[str, Expectation]: ...


def attention(case: Case, arrays: Arrays) -> dict[str, Expectation]:
    """The criterion of an attention case: u*A + eta*A0 from first-order error analysis.

    The unit roundoff is the inputs'; a bias of a narrower dtype has a gradient that is rounded to that.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        widths = truth.attention(case, arrays)
    vanishing = truth.vanishing(case, arrays)
    dtypes = {"d" + spec.name: spec.dtype for spec in case.tensors if spec.role == "input"}
    dtypes |= {"output": case.dtype, "logsumexp": "float32"}
    layout = case.arguments.get("layout", "bhnd")
    expectations = {}
    for name in case.quantities:
        width = widths[name]
        unit = max(UNIT_ROUNDOFF[case.dtype], UNIT_ROUNDOFF[dtypes[name]])
        with np.errstate(invalid="ignore", over="ignore"):
            rounding = 64 * UNIT_ROUNDOFF["float64"] * width.a
            zero = bool(np.all((np.abs(width.truth) <= rounding) | ~np.isfinite(width.truth)))
            bound = unit * width.a + UNDERFLOW[case.dtype] * width.a0
        expectations[name] = Expectation(
            truth=width.truth,
            width=bound,
            dtype=dtypes[name],
            shared=_shared_axes(name, layout, arrays),
            zero=zero,
            vanishing=name in vanishing or not case.finite,
        )
    return expectations


def _shared_axes(quantity: str, layout: str, arrays: Arrays) -> tuple[int, ...]:
    """The axes of a quantity that are neither batch nor head."""
    if quantity == "logsumexp":
        return (2,)
    if quantity == "dbias":
        rank = arrays["bias"].ndim
        return tuple(axis for axis in range(rank) if axis >= rank - 2)
    return (2, 3) if layout == "bhnd" else (1, 3)
