"""Inputs are a function of (seed, case, tensor) alone, and every special value is what its name says."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from parity import tensors
from parity.attention import Attention
from parity.cases import Case, TensorSpec

CASE = Attention(bias="hij", mask="bhij", logsumexp=True, dropout=0.25).case()


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_arrays():
    assert equal(tensors.make(CASE, 3), tensors.make(CASE, 3))


def test_another_seed_changes_every_tensor():
    one, other = tensors.make(CASE, 3), tensors.make(CASE, 4)
    assert [name for name in one if np.array_equal(one[name], other[name])] == []


def test_another_case_changes_every_tensor():
    one, other = tensors.make(CASE, 3), tensors.make(dataclasses.replace(CASE, name="S1,other"), 3)
    assert [name for name in one if np.array_equal(one[name], other[name])] == []


def test_tensors_of_one_shape_differ():
    case = Attention(dtype="float32").case()
    arrays = tensors.make(case, 0)
    assert len({array.tobytes() for array in arrays.values()}) == len(arrays)


def test_a_tensor_does_not_depend_on_the_others():
    whole = tensors.make(CASE, 5)
    for spec in CASE.tensors:
        alone = tensors.make(Case(CASE.name, (spec,), {}), 5)
        assert np.array_equal(alone[spec.name], whole[spec.name]), spec.name


def test_nor_on_their_order():
    backwards = dataclasses.replace(CASE, tensors=CASE.tensors[::-1])
    assert equal(tensors.make(backwards, 5), dict(reversed(tensors.make(CASE, 5).items())))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes_and_shapes_are_the_case_s(dtype):
    case = Attention(dtype=dtype, bias="hij", bias_dtype="float32", mask="ij", logsumexp=True).case()
    arrays = tensors.make(case, 0)
    for spec in case.tensors:
        assert arrays[spec.name].shape == spec.shape
        assert arrays[spec.name].dtype == tensors.dtype_of(spec.dtype)
    assert arrays["mask"].dtype == bool
    assert tensors.dtype_of("bfloat16") == ml_dtypes.bfloat16


def test_std_is_the_spread_and_a_mask_s_share_of_true():
    def drawn(dtype, std):
        return tensors.make(Case("S1", (TensorSpec("x", (300, 300), dtype, std=std),), {}), 0)["x"]

    assert drawn("float32", 3.0).std() == pytest.approx(3, rel=0.02)
    assert abs(drawn("float32", 3.0).mean()) < 0.05
    assert drawn("bool", 0.7).mean() == pytest.approx(0.7, abs=0.01)


def made(values, **fields):
    """The special arrays, and the same ones without the special values."""
    case = Attention(values=values, **fields).case()
    return tensors.make(case, 1), tensors.make(dataclasses.replace(case, values="normal"), 1)


def changed(special, normal):
    return {name for name in special if not np.array_equal(special[name], normal[name], equal_nan=True)}


ONE_ELEMENT = [(n, t) for n in ("nan", "inf") for t in ("query", "key", "value", "bias")]
ONE_ELEMENT += [("-inf", "value"), ("-inf", "bias")]


@pytest.mark.parametrize(("number", "tensor"), ONE_ELEMENT)
def test_one_element_is_not_finite(number, tensor):
    special, normal = made(f"{number}-{tensor}", bias="hij")
    different = special[tensor] != normal[tensor]
    assert changed(special, normal) == {tensor}
    assert different.sum() == 1
    np.testing.assert_array_equal(special[tensor][different], np.float32(number))


@pytest.mark.parametrize("form", ["bhij", "hij"])
def test_one_row_of_the_bias_is_minus_infinity(form):
    special, normal = made("-inf-bias-row", bias=form)
    assert changed(special, normal) == {"bias"}
    assert np.isneginf(special["bias"]).all(-1).sum() == 1
    assert np.isneginf(special["bias"]).sum() == 13


@pytest.mark.parametrize(("number", "tensor"), [("nan", "key"), ("inf", "key"), ("nan", "value")])
def test_what_is_not_finite_behind_a_mask_is_hidden_and_something_else_is_not(number, tensor):
    special, _ = made(f"masked-{number}-{tensor}", mask="111j")
    bad = ~np.isfinite(special[tensor])
    assert bad.any()
    assert not bad[:, :, :-1].any()
    np.testing.assert_array_equal(special[tensor][bad], np.float32(number))
    assert not special["mask"][..., -1].any()
    assert special["mask"][..., 0].all()


def test_empty_row_and_empty_rows():
    special, normal = made("empty-row", mask="bhij")
    assert changed(special, normal) == {"mask"}
    assert (~special["mask"].any(-1)).sum() == 1
    special, normal = made("empty-rows", mask="bhij")
    assert changed(special, normal) == {"mask"}
    assert not special["mask"].any()


@pytest.mark.parametrize(
    ("values", "which"), [("subnormal", {"value", "cotangent_output"}), ("subnormal-query", {"query", "key"})]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_about_half_is_subnormal(values, which, dtype):
    special, normal = made(values, dtype=dtype)
    assert changed(special, normal) == which
    for name in which:
        size = np.abs(special[name].astype(np.float64))
        small = (size > 0) & (size < 2.0**-126)
        assert 0.4 < small.mean() < 0.6


def test_sparse_is_one_in_16_four_times_as_large():
    special, normal = made("sparse", q_len=64, kv_len=64)
    assert changed(special, normal) == {"query", "key", "value", "cotangent_output"}
    for name in changed(special, normal):
        kept = special[name] != 0
        assert 0.03 < kept.mean() < 0.1
        np.testing.assert_array_equal(special[name][kept], 4 * normal[name][kept])


def test_near_overflow_is_finite_and_large():
    special, _ = made("near-overflow", dtype="float16", scale=1e-3)
    scores = special["query"].astype(np.float64) @ special["key"].astype(np.float64).swapaxes(-1, -2)
    assert 45_000 < np.abs(scores).max() < 65_504
    assert all(np.isfinite(array.astype(np.float64)).all() for array in special.values())


def test_low_bias_is_100_lower_and_the_rest_sparse():
    special, normal = made("low-bias", bias="hij", q_len=64, kv_len=64)
    np.testing.assert_allclose(special["bias"], normal["bias"].astype(np.float64) - 100, rtol=1e-6)
    for name in changed(special, normal) - {"bias"}:
        assert 0.03 < (special[name] != 0).mean() < 0.1


def test_identity_value():
    special, normal = made("identity-value", kv_len=24, value_dim=24)
    assert changed(special, normal) == {"value"}
    np.testing.assert_array_equal(special["value"], np.broadcast_to(np.eye(24), (2, 4, 24, 24)))


def test_every_special_value_has_a_test_here():
    tested = {"normal", "sparse", "subnormal", "subnormal-query", "near-overflow", "low-bias", "identity-value"}
    tested |= {"empty-row", "empty-rows", "-inf-bias-row", "masked-nan-key", "masked-inf-key", "masked-nan-value"}
    tested |= {f"{number}-{tensor}" for number, tensor in ONE_ELEMENT}
    assert set(tensors.SPECIAL) == tested
