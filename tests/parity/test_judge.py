"""One quantity under judgement: what passes, what does not and in which words, each with the fault that shows it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.compare import judge
from parity.criterion import ARITHMETIC_FACTOR, DEPARTURE_FACTOR, REFERENCE_FACTOR, Expectation

SHAPE = (2, 3, 5, 7)  # batch, heads, length, features
WIDTH = 1e-6


@pytest.fixture
def expected():
    truth = np.random.default_rng(0).standard_normal(SHAPE)
    return Expectation(truth, np.full(SHAPE, WIDTH), "float32", (2, 3))


@pytest.fixture
def reference(expected):
    return expected.truth.astype(np.float32)


def changed(array, index, number):
    array = array.copy()
    array[index] = number
    return array


def test_what_agrees_passes(expected, reference):
    verdict = judge("output", expected, reference, reference.copy())
    assert (verdict.status, verdict.reason, verdict.mismatched, verdict.elements) == ("passed", "", 0, 210)
    assert verdict.bound_ratio < 1
    assert verdict.max_error == verdict.reference_error < 1e-6


def test_a_failure_says_where_how_many_and_all_four_numbers(expected, reference):
    candidate = changed(changed(reference, (1, 2, 3, 4), 9.0), (0, 0, 0, 0), reference[0, 0, 0, 0] + 1e-3)
    verdict = judge("output", expected, reference, candidate)
    assert verdict.status == "failed"
    assert verdict.worst_index == (1, 2, 3, 4)
    assert (verdict.mismatched, verdict.elements) == (2, 210)
    assert "2 of 210" in verdict.reason
    assert verdict.candidate == 9.0
    assert verdict.reference == reference[1, 2, 3, 4]
    assert verdict.truth == expected.truth[1, 2, 3, 4]
    assert verdict.max_error == abs(9.0 - verdict.truth)
    assert verdict.bound_ratio == pytest.approx(verdict.max_error / verdict.bound)
    assert verdict.bound < 1e-5


@pytest.mark.parametrize(("factor", "status"), [(0.99, "passed"), (1.01, "failed")])
def test_the_bound_is_the_design_s(expected, factor, status):
    """2 * the reference's largest error in this batch and head, + 2 * width; another head's error lends nothing."""
    wide = dataclasses.replace(expected, dtype="float64")
    reference = wide.truth.copy()
    reference[0, 0, 0, 0] += 3e-6
    reference[1, 1, 0, 0] += 1e-5  # another head
    candidate = wide.truth.copy()
    bound = REFERENCE_FACTOR * 3e-6 + ARITHMETIC_FACTOR * WIDTH
    candidate[0, 0, 4, 6] += factor * bound
    verdict = judge("output", wide, reference, candidate)
    assert verdict.status == status
    assert verdict.bound_ratio == pytest.approx(factor, rel=1e-6)
    assert (REFERENCE_FACTOR, ARITHMETIC_FACTOR, DEPARTURE_FACTOR) == (2, 2, 16)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (None, "the candidate returned nothing"),
        (np.zeros((2, 3, 7, 5), np.float32), "(2, 3, 7, 5), expected (2, 3, 5, 7)"),
        (np.zeros((1, *SHAPE), np.float32), "expected (2, 3, 5, 7)"),
        (np.zeros(SHAPE, np.float16), "dtype float16, expected float32"),
        (np.zeros(SHAPE, np.float64), "dtype float64, expected float32"),
    ],
)
def test_attributes_come_first(expected, reference, candidate, words):
    verdict = judge("output", expected, reference, candidate)
    assert verdict.status == "failed"
    assert words in verdict.reason
    assert verdict.bound_ratio == np.inf
    other_way = judge("output", expected, candidate, reference)
    assert other_way.status == "inconclusive"
    assert words.replace("candidate", "reference") in other_way.reason


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_stand_where_it_stands_in_the_truth(expected, reference, number):
    at = (1, 0, 2, 3)
    bad = changed(reference, at, number)
    verdict = judge("output", expected, reference, bad)
    assert (verdict.status, verdict.worst_index, verdict.bound_ratio) == ("failed", at, np.inf)
    there = dataclasses.replace(expected, truth=changed(expected.truth, at, number))
    assert judge("output", there, bad, bad.copy()).status == "passed"
    missing = judge("output", there, bad, reference)
    assert (missing.status, missing.worst_index) == ("failed", at)


def test_the_sign_of_infinity_counts(expected, reference):
    at = (0, 1, 2, 3)
    infinite = dataclasses.replace(expected, truth=changed(expected.truth, at, np.inf))
    verdict = judge("output", infinite, changed(reference, at, np.inf), changed(reference, at, -np.inf))
    assert (verdict.status, verdict.worst_index) == ("failed", at)


def test_the_truth_overflows_where_its_dtype_does(expected, reference):
    at = (0, 0, 0, 0)
    big = dataclasses.replace(expected, truth=changed(expected.truth, at, 1e39))
    infinite = changed(reference, at, np.inf)
    assert judge("output", big, infinite, infinite.copy()).status == "passed"
    assert judge("output", big, infinite, changed(reference, at, 3e38)).status == "failed"


def test_equal_nans_are_not_equal_numbers(expected, reference):
    """Both sides NaN where the truth is finite is no agreement."""
    nan = changed(reference, (0, 0, 0, 0), np.nan)
    verdict = judge("output", expected, nan, nan.copy())
    assert verdict.status == "inconclusive"
    assert "the reference has nan at [0, 0, 0, 0]" in verdict.reason


def test_a_reference_that_departs_is_inconclusive_and_says_where(expected, reference):
    far = changed(reference, (1, 1, 1, 1), reference[1, 1, 1, 1] + 20 * WIDTH)
    for candidate in (far.copy(), reference):
        verdict = judge("output", expected, far, candidate)
        assert verdict.status == "inconclusive"
        assert "the reference is off" in verdict.reason
        assert "[1, 1, 1, 1]" in verdict.reason
    near = changed(reference, (1, 1, 1, 1), reference[1, 1, 1, 1] + 12 * WIDTH)
    assert judge("output", expected, near, reference).status == "passed"


def test_a_bound_wider_than_the_spread_is_inconclusive(expected, reference):
    wide = dataclasses.replace(expected, width=np.full(SHAPE, 1.0))
    verdict = judge("output", wide, reference, reference * np.float32(0.5))
    assert verdict.status == "inconclusive"
    assert "passing would mean nothing" in verdict.reason


def test_a_bound_that_is_nan_is_a_fault_of_the_harness(expected, reference):
    broken = dataclasses.replace(expected, width=changed(expected.width, (0, 0, 0, 0), np.nan))
    verdict = judge("output", broken, reference, reference.copy())
    assert verdict.status == "error"
    assert "NaN" in verdict.reason


def test_zero_size_is_judged_by_shape_and_dtype():
    nothing = Expectation(np.zeros((2, 0, 3)), np.zeros((2, 0, 3)), "float16", (2,))
    array = np.zeros((2, 0, 3), np.float16)
    assert judge("output", nothing, array, array.copy()).status == "passed"
    assert judge("output", nothing, array, array.astype(np.float32)).status == "failed"
    assert judge("output", nothing, array, np.zeros((2, 3, 0), np.float16)).status == "failed"


def test_permuted_rows_are_caught(expected, reference):
    """A mean of differences would not see them."""
    permuted = reference[:, :, [1, 0, 2, 3, 4]]
    assert permuted.sum() == pytest.approx(reference.sum(), rel=1e-5)
    verdict = judge("output", expected, reference, permuted)
    assert (verdict.status, verdict.mismatched) == ("failed", 2 * 3 * 2 * 7)
