"""From arrays to verdicts. A verdict is a property of the numbers: nothing here catches an exception."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.cases import Arrays
from parity.criterion import ARITHMETIC_FACTOR, DEPARTURE_FACTOR, REFERENCE_FACTOR, Expectation
from parity.picture import Picture, draw
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

    with np.errstate(all="ignore"):
        reference64, candidate64 = reference.astype(np.float64), candidate.astype(np.float64)
        rounded, rounded_theirs = _rounded(expected), _rounded(theirs)
        finite, finite_theirs = np.isfinite(rounded), np.isfinite(rounded_theirs)
        odd_reference = _misplaced(reference64, rounded_theirs)
        odd_candidate = _misplaced(candidate64, rounded)
        reference_error = np.where(finite_theirs, np.abs(reference64 - theirs.truth), 0)
        own = np.max(reference_error, axis=expected.shared, keepdims=True, initial=0)
        bound = REFERENCE_FACTOR * own + ARITHMETIC_FACTOR * expected.width
        error = np.where(finite, np.abs(candidate64 - expected.truth), 0)
        error = np.where(odd_candidate, np.inf, error)
        ratio = np.where(error == 0, 0, error / np.where(finite, bound, np.inf))
        ratio = np.where(odd_candidate, np.inf, ratio)

    if odd_reference.any():
        at = tuple(int(n) for n in np.argwhere(odd_reference)[0])
        return Verdict(
            name, "inconclusive",
            f"the reference has {reference64[at]} at {list(at)}, the truth is {rounded_theirs[at]}",
            worst_index=at, candidate=float(candidate64[at]), reference=float(reference64[at]),
            truth=float(rounded_theirs[at]), elements=elements,
        )  # fmt: skip
    if np.isnan(np.where(finite, bound, 0)).any():
        return Verdict(name, "error", "the bound is NaN: a fault of the harness", elements=elements)

    at = tuple(int(n) for n in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
    mismatched = int((ratio > 1).sum())
    status, reason = "passed", ""
    departure = np.where(finite_theirs, reference_error - DEPARTURE_FACTOR * theirs.width, -1)
    if (departure > 0).any():
        far = tuple(int(n) for n in np.unravel_index(int(np.argmax(departure)), departure.shape))
        status = "inconclusive"
        reason = (
            f"the reference is off by {reference_error[far]:.3g} at {list(far)}, more than "
            f"{DEPARTURE_FACTOR:g} times what its arithmetic explains ({theirs.width[far]:.3g})"
        )
    elif mismatched:
        status = "failed"
        reason = f"{mismatched} of {elements} beyond the bound ({100 * mismatched / elements:.3g} %)"
    elif not expected.zero and _meaningless(expected.truth[finite], bound[finite]):
        status = "inconclusive"
        reason = "the bound is wider than the spread of the truth, so that passing would mean nothing"
    return Verdict(
        name, status, reason,
        max_error=float(error.max()), reference_error=float(reference_error.max()), bound_ratio=float(ratio[at]),
        worst_index=at, candidate=float(candidate64[at]), reference=float(reference64[at]),
        truth=float(rounded[at]) if not finite[at] else float(expected.truth[at]), bound=float(bound[at]),
        mismatched=mismatched, elements=elements, picture=draw(ratio, error, rounded, expected.dtype),
    )  # fmt: skip


def _attributes(expected: Expectation, array: np.ndarray | None, who: str) -> str:
    if array is None:
        return f"{who} returned nothing for this"
    if array.shape != expected.truth.shape:
        return f"{who} has shape {array.shape}, expected {expected.truth.shape}"
    if array.dtype != dtype_of(expected.dtype):
        return f"{who} has dtype {array.dtype}, expected {expected.dtype}"
    return ""


def _rounded(expected: Expectation) -> np.ndarray:
    """The truth as its dtype can hold it: overflow becomes inf."""
    return expected.truth.astype(dtype_of(expected.dtype)).astype(np.float64)


def _misplaced(array: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where NaN, +inf or -inf stands in one and not in the other."""
    if np.isfinite(array).all() and np.isfinite(truth).all():
        return np.zeros(truth.shape, bool)
    return (np.isnan(array) != np.isnan(truth)) | (np.isinf(array) | np.isinf(truth)) & (array != truth)


def _meaningless(truth: np.ndarray, bound: np.ndarray) -> bool:
    """For most elements the bound is wider than the spread of the truth: a constant or shuffled tensor could pass."""
    if truth.size == 0:
        return False
    spread = truth.std() if truth.size > 1 else abs(truth[0])
    return bool(np.median(bound) > spread)


def _vacuous(name: str, expected: Expectation, reference: Arrays, candidate: Arrays) -> Verdict | None:
    """Faults of the harness that would let anything pass."""
    mine, theirs = candidate.get(name), reference.get(name)
    if mine is not None and theirs is not None and np.shares_memory(mine, theirs):
        return Verdict(name, "error", "both results share memory: a fault of the harness")
    if expected.truth.size and expected.zero and not expected.vanishing:
        return Verdict(name, "error", "the truth is zero everywhere, and nothing in the case makes it so")
    return None
