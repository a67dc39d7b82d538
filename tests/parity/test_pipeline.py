"""The order of things, with targets that die, hang, raise and return nonsense: each costs its own case and no other."""

from __future__ import annotations

import pytest

from parity import pipeline
from parity.attention import Attention
from parity.pipeline import Plan
from parity.spec import BadSpec, Spec

# size of value's features (see candidates/odd.py) -> the status and words of its case
TORCH = {
    1: ("error", "candidate: the worker died (exit code 7)"),
    2: ("error", "candidate: no answer in 6 s"),
    3: ("failed", "the candidate raised ValueError: I do not like this one"),
    5: ("failed", "the candidate has shape (2, 4, 13, 4), expected (2, 4, 13, 5)"),
    6: ("failed", "dtype float64, expected float32"),
    7: ("failed", "expected output to be a torch.Tensor, got NoneType"),
    8: ("passed", ""),
    9: ("failed", "expected output to be a torch.Tensor, got ndarray"),
    10: ("failed", "beyond the bound"),
    11: ("failed", "dvalue: "),
    12: ("passed", ""),
    13: ("failed", "beyond the bound"),
    14: ("failed", "the candidate raised SystemExit: 5"),
}
JAX = {
    3: ("failed", "the candidate raised ZeroDivisionError"),
    5: ("failed", "the candidate has shape (2, 4, 13, 4), expected (2, 4, 13, 5)"),
    6: ("failed", "dtype bfloat16, expected float32"),
    7: ("failed", "expected output to be a jax.Array, got NoneType"),
    9: ("failed", "expected output to be a jax.Array, got list"),
    8: ("passed", ""),
    12: ("passed", ""),
}


@pytest.fixture(scope="module")
def here(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.path.parent / "candidates")
        yield


def ran(candidate, cases, **plan):
    seen = []
    plan = Plan([case.case() for case in cases], Spec.parse("attend_torch:Attend"), Spec.parse(candidate), **plan)
    report = pipeline.run(plan, seen.append)
    assert list(report.results) == seen, "every result is told when it is known, in order"
    return report


@pytest.fixture(scope="module")
def with_torch(here):  # noqa: ARG001
    cases = [Attention(value_dim=size) for size in TORCH]
    cases += [Attention(rule="huge", batch=1 << 44), Attention(rule="S12", mask="ij"), Attention(rule="last")]
    return ran("odd:Attend", cases, timeout=6.0, device="cpu")


@pytest.fixture(scope="module")
def with_jax(here):  # noqa: ARG001
    return ran("odd_jax:attend", [Attention(value_dim=size) for size in JAX], device="cpu")


@pytest.mark.parametrize("size", TORCH)
def test_a_torch_candidate_s_misbehaviour_is_its_case_s_status(with_torch, size):
    result = with_torch.results[list(TORCH).index(size)]
    status, words = TORCH[size]
    assert result.name == Attention(value_dim=size).name
    assert (result.status, words in result.reason) == (status, True), result.reason


@pytest.mark.parametrize("size", JAX)
def test_a_jax_candidate_s_misbehaviour_is_its_case_s_status(with_jax, size):
    result = with_jax.results[list(JAX).index(size)]
    status, words = JAX[size]
    assert (result.status, words in result.reason) == (status, True), result.reason


def test_deaths_and_timeouts_leave_the_other_cases_judged(with_torch):
    *_, huge, masked, last = with_torch.results
    assert len(with_torch.results) == len(TORCH) + 3
    assert (huge.status, "there is no memory for the reference's inputs: " in huge.reason) == ("error", True), (
        huge.reason
    )
    assert (masked.status, masked.reason) == ("skipped", "the candidate does not accept mask")
    assert (last.status, len(last.verdicts)) == ("passed", 4)
    assert with_torch.exit_code == 3


def test_what_has_no_gradient_is_caught_though_its_output_is_right(with_torch):
    statuses = {v.quantity: v.status for v in with_torch.results[list(TORCH).index(11)].verdicts}
    assert statuses == {"output": "passed", "dquery": "failed", "dkey": "failed", "dvalue": "failed"}


def test_a_result_says_where_it_was_made_and_how_to_make_it_again(with_torch):
    result = with_torch.results[list(TORCH).index(8)]
    assert (result.seed, result.dtype, result.device) == (0, "float32", "cpu")
    assert (result.reference, result.candidate) == ("attend_torch:Attend", "odd:Attend")
    assert result.command == "parity run --case S1 --seed 0 --candidate odd:Attend --device cpu"
    assert {"python", "commit", "seed", "torch", "torch device"} <= with_torch.environment.keys()
    assert with_torch.environment["torch allow_tf32"] == "False"


def test_precision_of_the_jax_side_is_reported(with_jax):
    assert {"jax", "jax device", "jax_default_matmul_precision"} <= with_jax.environment.keys()


@pytest.mark.usefixtures("here")
def test_a_reference_that_raises_is_a_skip_with_its_words():
    cases = [Attention(rule="S9", flash=True, bias="hij"), Attention(rule="S1")]
    plan = Plan(
        [case.case() for case in cases], Spec.parse("third_party:Attend"), Spec.parse("parity.mutants:plain_port")
    )
    refused, fine = pipeline.run(plan).results
    assert (refused.status, fine.status) == ("skipped", "passed")
    assert refused.reason == "the reference raised AssertionError: no bias with flash"


@pytest.mark.usefixtures("here")
def test_fail_fast_stops_at_the_first_failure():
    cases = [Attention(), Attention(value_dim=3), Attention(value_dim=12)]
    report = ran("odd:Attend", cases, fail_fast=True)
    assert [result.status for result in report.results] == ["passed", "failed"]
    assert report.exit_code == 1


def test_no_cases_start_no_process(monkeypatch):
    monkeypatch.setattr(pipeline, "Session", None)
    plan = Plan([], Spec.parse("no:such"), Spec.parse("no:such"), empty_shard=True)
    assert pipeline.run(plan).exit_code == 0


@pytest.mark.usefixtures("here")
def test_a_side_that_cannot_start_is_bad_input():
    plan = Plan([Attention().case()], Spec.parse("third_party:Attend"), Spec.parse("third_party:Atend"))
    with pytest.raises(BadSpec, match=r"candidate third_party:Atend: .* did you mean Attend"):
        pipeline.run(plan)


@pytest.mark.usefixtures("here")
def test_a_fault_of_the_criterion_costs_its_case_only():
    def broken(case, arrays):
        if "causal" in case.arguments:
            raise ZeroDivisionError("planted")
        return pipeline.attention(case, arrays)

    broken_first = ran("parity.mutants:plain_port", [Attention(causal=True), Attention()], criterion=broken)
    assert [result.status for result in broken_first.results] == ["error", "passed"]
    assert "planted" in broken_first.results[0].reason
    assert broken_first.exit_code == 3
