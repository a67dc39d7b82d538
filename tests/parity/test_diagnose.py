"""For wrong ports whose pattern is known, the likely cause says in words what they get wrong."""

from __future__ import annotations

import functools

import pytest

import attend_torch
from parity import criterion, diagnose, mutants, tensors, worker_torch
from parity.attention import Attention
from parity.compare import compare
from parity.messages import Job, Options
from parity.spec import interface


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    worker_torch.set_up(Options(device="cpu"))


@functools.cache
def right(name):
    """The case, its tensors, what is expected, and what the reference returns."""
    case = Attention.parse(name).case()
    arrays = tensors.make(case, 0)
    return case, arrays, criterion.attention(case, arrays), results(attend_torch.Attend, case, arrays)


def results(target, case, arrays):
    return worker_torch.run(target, interface(target, "torch"), Job(0, case, arrays))


def likely_cause(port, name):
    case, arrays, expectations, reference = right(name)
    candidate = results(mutants.CATALOGUE[port].build(), case, arrays)
    verdicts = compare(expectations, reference, candidate)
    assert "failed" in {verdict.status for verdict in verdicts}
    return diagnose.likely_cause(case, arrays, candidate, verdicts, criterion.attention)


KNOWN = [
    ("causal_upper_left", "S3,j=17,causal=1", "aligned to the upper left instead of the lower right"),
    ("causal_upper_left", "S4,i=17,causal=1,e=12", "aligned to the upper left instead of the lower right"),
    ("causal_lower_right", "S8,j=17,flash=1,causal=1", "aligned to the lower right instead of the upper left"),
    ("causal_ignored", "S3,causal=1", "causal is ignored"),
    ("bias_ignored", "S2,bias=hij", "the bias is ignored"),
    ("bias_transposed", "S2,bias=hij", "the bias is transposed"),
    ("bias_subtracted", "S2,bias=hij", "the bias is subtracted"),
    ("bias_scaled", "S2,bias=hij", "the bias is scaled with the scores"),
    ("bias_scaled", "S2,bias=b1ij,j=17", "the bias is scaled with the scores"),
    ("bias_no_gradient", "S2,bias=hij", "dbias is zero everywhere: its gradient is missing"),
    ("query_no_gradient", "S1", "dquery is zero everywhere: its gradient is missing"),
    ("mask_inverted", "S12,mask=bhij", "the mask is inverted"),
    ("mask_ignored", "S12,mask=bhij", "the mask is ignored"),
    ("scale_missing", "S1", "the scale is missing"),
    ("scale_squared", "S1", "the scale is applied twice"),
    ("scale_of_value", "S1,e=12", "value's head size"),
    ("scale_argument_ignored", "S1,scale=0.3", "default scale is used instead of the given one"),
    ("tf32", "S1", "TF32"),
    ("tf32_backward", "S1", "TF32"),
    ("bf16_products", "S1", "bfloat16"),
    ("empty_rows_zero", "S4,i=17,causal=1", "rows that may attend nothing are zero"),
    ("empty_rows_zero", "S12,mask=bhij,values=empty-row", "rows that may attend nothing are zero"),
    ("empty_rows_nan", "S4,i=17,causal=1", "256 NaN where the truth is finite"),
    ("groups_in_turn", "S13,kv=2", "grouped heads are taken in turn"),
    ("groups_in_turn", "S13,kv=2,layout=bnhd", "grouped heads are taken in turn"),
    ("dropout_not_rescaled", "S16,dropout=0.25", "not divided by 1 - dropout"),
    ("dropout_inverted", "S16,dropout=0.25", "dropout_mask is inverted"),
    ("logsumexp_no_gradient", "S15,lse=1", "gradient through the log-sum-exp is dropped"),
    ("key_gradient_doubled", "S1", "dkey is twice what it should be"),
    ("bias_gradient_mean", "S2,bias=hij", "dbias is half what it should be"),
    ("softmax_no_delta", "S1", "look at the backward pass"),
]


@pytest.mark.parametrize(("port", "name", "words"), KNOWN, ids=[f"{port}-{name}" for port, name, _ in KNOWN])
def test_the_likely_cause_is_named(port, name, words):
    assert words in likely_cause(port, name)


@pytest.mark.parametrize("port", ["one_element_off", "softmax_over_heads", "last_row_wrong", "bias_rolled"])
def test_what_is_not_known_is_not_guessed_at(port):
    """No suspect's words for a port that does something else."""
    name = "S2,bias=hij"
    assert likely_cause(port, name) not in [words for words, _ in diagnose.SUSPECTS]


def test_a_suspect_must_explain_every_quantity():
    """The right output of the wrong corner beside gradients of the right one is neither."""
    case, arrays, expectations, reference = right("S3,j=17,causal=1")
    wrong = results(mutants.CATALOGUE["causal_upper_left"].build(), case, arrays)
    mixed = {name: array.copy() for name, array in reference.items()} | {"output": wrong["output"]}
    verdicts = compare(expectations, reference, mixed)
    assert "upper left" not in diagnose.likely_cause(case, arrays, mixed, verdicts, criterion.attention)
