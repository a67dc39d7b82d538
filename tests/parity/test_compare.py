"""All quantities of a case under judgement, and what would make the harness blind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity import criterion, tensors
from parity.attention import Attention
from parity.compare import SEVERITY, compare, worst


@pytest.fixture(scope="module")
def with_bias():
    case = Attention(bias="hij").case()
    arrays = tensors.make(case, 0)
    expectations = criterion.attention(case, arrays)
    right = {name: e.truth.astype(tensors.dtype_of(e.dtype)) for name, e in expectations.items()}
    return case, arrays, expectations, right


def copied(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def test_compare_judges_every_quantity(with_bias):
    _, _, expectations, right = with_bias
    verdicts = compare(expectations, right, copied(right))
    assert [verdict.quantity for verdict in verdicts] == ["output", "dquery", "dkey", "dvalue", "dbias"]
    assert {verdict.status for verdict in verdicts} == {"passed"}


def test_one_bad_quantity_does_not_hide_behind_the_others(with_bias):
    _, _, expectations, right = with_bias
    candidate = copied(right) | {"dkey": -right["dkey"]}
    statuses = {v.quantity: v.status for v in compare(expectations, right, candidate)}
    assert statuses == dict.fromkeys(right, "passed") | {"dkey": "failed"}
    del candidate["dkey"]
    missing = {v.quantity: v for v in compare(expectations, right, candidate)}["dkey"]
    assert missing.status == "failed"


def test_a_bias_off_by_a_thousandth_is_caught(with_bias):
    case, arrays, expectations, right = with_bias
    near = criterion.attention(case, arrays | {"bias": arrays["bias"] * np.float32(1.001)})
    wrong = {name: e.truth.astype(np.float32) for name, e in near.items()}
    verdicts = compare(expectations, right, wrong)
    assert {verdict.status for verdict in verdicts} == {"failed"}
    assert np.allclose(wrong["output"], right["output"], atol=1e-2), "a fixed atol would not have seen it"


def test_results_that_share_memory_are_a_fault_of_the_harness(with_bias):
    _, _, expectations, right = with_bias
    verdicts = compare(expectations, right, copied(right) | {"output": right["output"][...]})
    assert {v.quantity: v.status for v in verdicts if v.status != "passed"} == {"output": "error"}
    assert "share memory" in verdicts[0].reason


def test_a_truth_that_is_zero_everywhere_is_a_fault_unless_the_case_makes_it_so(with_bias):
    _, _, expectations, right = with_bias
    zeros = right | {"dbias": np.zeros_like(right["dbias"])}
    zero = np.zeros_like(expectations["dbias"].truth)
    for vanishing, status in ((False, "error"), (True, "passed")):
        built = dataclasses.replace(expectations["dbias"], truth=zero, zero=True, vanishing=vanishing)
        verdict = compare({"dbias": built}, zeros, copied(zeros))[0]
        assert verdict.status == status
    assert "zero everywhere" in compare(
        {"dbias": dataclasses.replace(built, vanishing=False)}, zeros, copied(zeros)
    )[0].reason  # fmt: skip


def test_a_vanishing_gradient_that_does_not_vanish_fails():
    case = Attention(kv_len=1, bias="hij").case()
    expectations = criterion.attention(case, tensors.make(case, 0))
    right = {name: e.truth.astype(np.float32) for name, e in expectations.items()}
    wrong = copied(right) | {"dquery": right["dquery"] + np.float32(1e-3)}
    assert {v.quantity for v in compare(expectations, right, wrong) if v.status == "failed"} == {"dquery"}


def test_the_worst_status_decides():
    order = ["passed", "skipped", "inconclusive", "failed", "error"]
    assert sorted(SEVERITY, key=SEVERITY.__getitem__) == order
    for n, status in enumerate(order):
        assert worst(order[: n + 1]) == status
    assert worst([]) == "passed"


def test_a_call_without_gradients_is_judged_with_the_output(with_bias):
    _, _, expectations, right = with_bias
    candidate = copied(right) | {"output_inference": right["output"] * np.float32(1.01)}
    verdict = compare(expectations, right, candidate)[0]
    assert (verdict.quantity, verdict.status) == ("output", "failed")
    assert "without gradients" in verdict.reason
    assert (
        compare(expectations, right, copied(right) | {"output_inference": right["output"].copy()})[0].status == "passed"
    )
