"""The numbers of a tensor do not depend on the blocks that it is looked at in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity import measure, picture
from parity.compare import judge
from parity.criterion import Expectation

SHAPES = [((613,), (0,)), ((11, 53), (0, 1)), ((3, 2, 7, 13), (2, 3)), ((5, 3, 2, 7), (1, 3)), ((2,), (0,)), ((), ())]


def case(shape, shared, odd):
    rng = np.random.default_rng(len(shape))
    truth = np.asarray(rng.standard_normal(shape))
    width = np.asarray(np.abs(truth) * 2.0**-24 + 1e-9)
    reference, candidate = (
        np.asarray(truth + np.asarray(rng.standard_normal(shape)) * width * size).astype(np.float32)
        for size in (0.3, 3.0)
    )
    if odd:
        truth.flat[-1], candidate.flat[0] = np.inf, np.nan
    return Expectation(truth, width, "float32", shared, vanishing=True), reference, candidate


@pytest.mark.parametrize(("shape", "shared"), SHAPES)
@pytest.mark.parametrize("odd", [False, True], ids=["finite", "not finite"])
def test_blocks_of_any_size_give_the_same_verdict(shape, shared, odd, monkeypatch):
    given = case(shape, shared, odd)
    whole = dataclasses.asdict(judge("x", *given))
    monkeypatch.setattr(measure, "AT_ONCE", 17)
    monkeypatch.setattr(picture, "AT_ONCE", 19)
    assert repr(dataclasses.asdict(judge("x", *given))) == repr(whole)


def test_the_worst_of_a_late_block_is_found_in_the_tensor_s_own_index():
    expected, reference, _ = case((90, 1000), (0, 1), odd=False)
    candidate = reference.copy()
    candidate[77, 503] += 1
    verdict = judge("x", expected, reference, candidate)
    assert (verdict.status, verdict.worst_index, verdict.mismatched) == ("failed", (77, 503), 1)


@pytest.mark.parametrize(("widths", "status"), [((0.1, 3.0), "inconclusive"), ((0.1, 0.5), "passed")])
def test_of_two_numbers_the_median_of_the_bound_lies_between_them(widths, status):
    truth = np.array([-1.0, 1.0])  # whose spread is 1; the bound is twice the width
    expected = Expectation(truth, np.array(widths), "float32", (0,))
    assert judge("x", expected, truth.astype(np.float32), truth.astype(np.float32)).status == status


def test_the_spread_of_a_truth_far_from_zero_is_not_lost_between_blocks():
    truth = 1e6 + np.repeat([-1.0, 1.0], 3 * measure.AT_ONCE)
    expected = Expectation(truth, np.full(truth.shape, 0.45), "float32", (0,))
    assert judge("x", expected, truth.astype(np.float32), truth.astype(np.float32)).status == "passed"
    wide = dataclasses.replace(expected, width=np.full(truth.shape, 0.55))
    assert judge("x", wide, truth.astype(np.float32), truth.astype(np.float32)).status == "inconclusive"
