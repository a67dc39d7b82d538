"""Native dropout, judged on sides made in NumPy: one that drops as it should, and one for each way to get it wrong."""

from __future__ import annotations

import numpy as np
import pytest

from parity import criterion, tensors
from parity.attention import Attention
from parity.dropout import judge_dropout

RATE = 0.25
CASE = Attention(
    kind="dropout", values="identity-value", q_len=32, kv_len=24, value_dim=24, dropout=RATE, bias="hij"
).case()  # fmt: skip
ARRAYS = tensors.make(CASE, 0)
SCORES = (2, 4, 32, 24)


def step(keep, gradient_keep=None):
    """A training step in which just these weights are kept, by the truth rounded to float32."""
    found = criterion.attention(CASE, ARRAYS | {"dropout_mask": keep})
    arrays = {name: expected.truth.astype(np.float32) for name, expected in found.items()}
    if gradient_keep is not None:
        arrays = step(gradient_keep) | {"output": arrays["output"]}
    return arrays


def draw(seed, shape=SCORES, rate=RATE):
    return np.broadcast_to(np.random.default_rng(seed).random(shape) >= rate, SCORES)


def side(seed=0, shape=SCORES, rate=RATE, **changes):
    """What a worker returns for a dropout case."""
    keep, other = draw(seed, shape, rate), draw(seed + 1000, shape, rate)
    everything = step(np.ones(SCORES, bool))["output"] * np.float32(1 - RATE)
    arrays = step(keep)
    arrays |= {
        "output_again": arrays["output"].copy(),
        "output_other": step(other)["output"],
        "output_eval": everything,
    }
    return arrays | changes


def failed(candidate, reference=None):
    verdicts = judge_dropout(CASE, ARRAYS, side() if reference is None else reference, candidate, criterion.attention)
    return {verdict.quantity: verdict for verdict in verdicts if verdict.status == "failed"}


@pytest.mark.parametrize("seed", range(1, 6))
def test_an_honest_side_passes_whatever_it_dropped(seed):
    verdicts = judge_dropout(CASE, ARRAYS, side(), side(seed), criterion.attention)
    assert {verdict.status for verdict in verdicts} == {"passed"}
    assert {verdict.quantity for verdict in verdicts} == {
        "output", "dquery", "dkey", "dvalue", "dbias", "evaluation", "kept_fraction", "same_rng_same_result",
        "other_rng_other_result", "independence_of_batch", "independence_of_heads", "independence_of_rows",
        "independence_of_columns", "independence_of_pairs", "independence_of_transpose",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "shape"),
    [("batch", (1, 4, 32, 24)), ("heads", (2, 1, 32, 24)), ("rows", (2, 4, 1, 24)), ("columns", (2, 4, 32, 1))],
)
def test_a_mask_that_an_axis_shares(axis, shape):
    found = failed(side(1, shape))
    assert f"independence_of_{axis}" in found
    assert axis in found[f"independence_of_{axis}"].reason
    assert "output" not in found


@pytest.mark.parametrize("rate", [0.2, 0.3, 0.75])
def test_a_wrong_rate(rate):
    found = failed(side(1, rate=rate))
    assert "kept_fraction" in found
    assert not {"output", "dquery", "dkey", "dvalue", "dbias", "evaluation"} & set(found)
    assert f"expected {1 - RATE:.4f}" in found["kept_fraction"].reason


def test_weights_that_are_not_divided_by_1_minus_p():
    candidate = side(1)
    found = failed(candidate | {n: (candidate[n] * (1 - RATE)).astype("f4") for n in CASE.quantities})
    assert {"output", "dquery", "dkey", "dvalue", "dbias"} == set(found) - {"same_rng_same_result"}


def test_the_same_weights_for_another_rng():
    candidate = side(1)
    assert set(failed(candidate | {"output_other": candidate["output"].copy()})) == {"other_rng_other_result"}


def test_other_weights_for_the_same_rng():
    assert set(failed(side(1, output_again=step(draw(7))["output"]))) == {"same_rng_same_result"}


def test_dropping_in_evaluation():
    assert "evaluation" in failed(side(1, output_eval=step(draw(7))["output"]))


def test_never_dropping():
    candidate = side(1)
    evaluation = candidate["output_eval"]
    whole = step(np.ones(SCORES, bool))
    same = {name: (whole[name] * np.float32(1 - RATE)) for name in whole}
    found = failed(candidate | same | {"output_again": evaluation, "output_other": evaluation})
    assert {"output", "kept_fraction", "other_rng_other_result"} <= set(found)


def test_a_gradient_through_other_weights():
    keep, other = draw(1), draw(2)
    candidate = side(1) | step(keep, gradient_keep=other)
    assert {"dquery", "dkey", "dvalue", "dbias"} == set(failed(candidate))


def test_a_gradient_through_all_weights():
    candidate = side(1) | step(draw(1), gradient_keep=np.ones(SCORES, bool))
    assert {"dquery", "dkey", "dvalue", "dbias"} == set(failed(candidate))


def test_what_is_missing_or_has_another_shape_fails():
    candidate = side(1)
    assert "output" in failed(candidate | {"output": candidate["output"][:1]})
    assert "output" in failed({name: array for name, array in candidate.items() if name != "output"})
    assert "evaluation" in failed({name: array for name, array in candidate.items() if name != "output_eval"})
    assert "dkey" in failed({name: array for name, array in candidate.items() if name != "dkey"})


def test_a_reference_that_drops_wrongly_is_inconclusive():
    verdicts = judge_dropout(CASE, ARRAYS, side(3, (2, 1, 32, 24)), side(1), criterion.attention)
    assert {verdict.status for verdict in verdicts} == {"inconclusive"}
    assert "the reference" in verdicts[0].reason


def test_dropping_everything_is_exact():
    case = Attention(kind="dropout", values="identity-value", q_len=32, kv_len=24, value_dim=24, dropout=1.0).case()
    arrays = tensors.make(case, 0)
    found = criterion.attention(case, arrays | {"dropout_mask": np.zeros(SCORES, bool)})
    whole = criterion.attention(Attention(values="identity-value", q_len=32, kv_len=24, value_dim=24).case(), arrays)
    one = {name: expected.truth.astype(np.float32) for name, expected in found.items()}
    one["output_again"] = one["output_other"] = one["output"]
    one["output_eval"] = whole["output"].truth.astype(np.float32)
    verdicts = judge_dropout(case, arrays, one, dict(one), criterion.attention)
    assert {verdict.status for verdict in verdicts} == {"passed"}
    off = dict(one) | {"dvalue": one["dvalue"] + np.float32(1)}
    assert "dvalue" in {
        v.quantity for v in judge_dropout(case, arrays, one, off, criterion.attention) if v.status == "failed"
    }


@pytest.mark.parametrize("distance", [1, 8, 16])
def test_rows_that_drop_the_same_weights_far_apart(distance):
    keep = np.concatenate([draw(1)[:, :, :distance]] * (32 // distance), axis=2)
    found = failed(side(1) | step(keep))
    assert "independence_of_rows" in found


def test_a_second_call_that_drops_the_same_weights():
    honest = side(1)
    assert "second_call_other_result" in failed(honest | {"output_second": honest["output"].copy()})
    assert failed(honest | {"output_second": step(draw(5))["output"]}) == {}
