"""From arrays to verdicts. A verdict is a property of the numbers: nothing here catches an exception."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.cases import Arrays
from parity.criterion import DEPARTURE_FACTOR, Expectation
from parity.measure import measure
from parity.picture import Picture
from parity.tensors import dtype_of

# What a side returns beside an output: that of the same call without gradients.
INFERENCE = "_inference"
# How bad a status is; a case has the worst of its quantities'.
SEVERITY = {"passed": 0, "skipped": 1, "inconclusive": 2, "failed": 3, "error": 4}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement on one quantity of a case, with the numbers at its worst element."""

    quantity: str
    status: str
    reason: str = ""
    max_error: float = 0.0
    reference_error: float = 0.0
    bound_ratio: float = 0.0
    worst_index: tuple[int, ...] | None = None
    candidate: float | None = None
    reference: float | None = None
    truth: float | None = None
    bound: float | None = None
    mismatched: int = 0
    elements: int = 0
    picture: Picture | None = None


def worst(statuses: list[str]) -> str:
    """The worst of some statuses; "passed" if there are none."""
    return max(statuses, key=SEVERITY.__getitem__, default="passed")


def compare(expectations: Mapping[str, Expectation], reference: Arrays, candidate: Arrays) -> list[Verdict]:
    """Judge every quantity of a case."""
    verdicts = []
    for name, expectation in expectations.items():
        verdict = _vacuous(name, expectation, reference, candidate)
        verdict = verdict or judge(name, expectation, reference.get(name), candidate.get(name))
        if verdict.status == "passed" and name + INFERENCE in candidate:
            # The same call without gradients: other code may run, and it is the code that is shipped.
            theirs = reference.get(name + INFERENCE, reference.get(name))
            without = judge(name, expectation, theirs, candidate[name + INFERENCE])
            if without.status != "passed":
                verdict = dataclasses.replace(without, reason=f"in a call without gradients: {without.reason}")
        verdicts.append(verdict)
    return verdicts


def judge(
    name: str,
    expected: Expectation,
    reference: np.ndarray | None,
    candidate: np.ndarray | None,
    expected_of_reference: Expectation | None = None,
) -> Verdict:
    """Judge one quantity: attributes first, then what is not finite, then the numbers.

    `expected_of_reference` is given where the two sides computed different things on purpose (dropped other weights).
    """
    theirs = expected if expected_of_reference is None else expected_of_reference
    departs = _attributes(expected, reference, "the reference")
    if departs:
        return Verdict(name, "inconclusive", departs)
    differs = _attributes(expected, candidate, "the candidate")
    if differs:
        return Verdict(name, "failed", differs, max_error=np.inf, bound_ratio=np.inf)
    assert reference is not None
    assert candidate is not None
    elements = expected.truth.size
    if elements == 0:
        return Verdict(name, "passed", "no elements: shape and dtype agree")

    numbers = measure(expected, theirs, reference, candidate)
    at = numbers.worst
    shown = _at(expected, at)
    if numbers.odd_reference is not None:
        odd = numbers.odd_reference
        right = _at(theirs, odd)
        return Verdict(
            name, "inconclusive", f"the reference has {float(reference[odd])} at {list(odd)}, the truth is {right}",
            worst_index=odd, candidate=float(candidate[odd]), reference=float(reference[odd]), truth=right,
            elements=elements,
        )  # fmt: skip
    if numbers.bound is None:
        return Verdict(name, "error", "the bound is NaN: a fault of the harness", elements=elements)
    status, reason = "passed", ""
    if numbers.departs is not None:
        far, off = numbers.departs, numbers.departs_by
        status = "inconclusive"
        reason = (
            f"the reference is off by {off:.3g} at {list(far)}, more than "
            f"{DEPARTURE_FACTOR:g} times what its arithmetic explains ({theirs.width[far]:.3g})"
        )
    elif numbers.mismatched:
        status = "failed"
        share = 100 * numbers.mismatched / elements
        reason = f"{numbers.mismatched} of {elements} beyond the bound ({share:.3g} %)"
    elif not expected.zero and numbers.meaningless:
        status = "inconclusive"
        reason = "the bound is wider than the spread of the truth, so that passing would mean nothing"
    return Verdict(
        name, status, reason,
        max_error=numbers.error, reference_error=numbers.reference_error, bound_ratio=numbers.ratio,
        worst_index=at, candidate=float(candidate[at]), reference=float(reference[at]),
        truth=shown if not np.isfinite(shown) else float(expected.truth[at]), bound=numbers.bound,
        mismatched=numbers.mismatched, elements=elements, picture=numbers.picture,
    )  # fmt: skip


def _at(expected: Expectation, at: tuple[int, ...]) -> float:
    """An element of the truth as its dtype can hold it: overflow becomes inf."""
    with np.errstate(over="ignore"):
        return float(expected.truth[at].astype(dtype_of(expected.dtype)))


def _attributes(expected: Expectation, array: np.ndarray | None, who: str) -> str:
    if array is None:
        return f"{who} returned nothing for this"
    if array.shape != expected.truth.shape:
        return f"{who} has shape {array.shape}, expected {expected.truth.shape}"
    if array.dtype != dtype_of(expected.dtype):
        return f"{who} has dtype {array.dtype}, expected {expected.dtype}"
    return ""


def _vacuous(name: str, expected: Expectation, reference: Arrays, candidate: Arrays) -> Verdict | None:
    """Faults of the harness that would let anything pass."""
    mine, theirs = candidate.get(name), reference.get(name)
    if mine is not None and theirs is not None and np.shares_memory(mine, theirs):
        return Verdict(name, "error", "both results share memory: a fault of the harness")
    if expected.truth.size and expected.zero and not expected.vanishing:
        return Verdict(name, "error", "the truth is zero everywhere, and nothing in the case makes it so")
    return None
