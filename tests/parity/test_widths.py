"""The widths A and A0 of the truth: honest float32 arithmetic stays within them, and a small mistake does not."""

from __future__ import annotations

import numpy as np
import pytest

from parity import tensors, truth
from parity.attention import Attention

U, ETA = 2.0**-24, 2.0**-126


def blocked(a, b, order):
    """a @ b in float32, summed in another order."""
    if order == "reversed":
        return a[..., ::-1] @ b[..., ::-1, :]
    if order == "one by one":
        total = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
        for k in range(a.shape[-1]):
            total = total + a[..., k : k + 1] * b[..., k : k + 1, :]
        return total
    if order == "in pairs":
        return sum((a[..., k : k + 2] @ b[..., k : k + 2, :] for k in range(0, a.shape[-1], 2)), np.float32(0))
    return a @ b


def float32_attention(arrays, order, scale_first):
    """Forward and backward in float32, softmax attention with a bias, in one order of summation."""
    q, k, v, bias, g = (arrays[name] for name in ("query", "key", "value", "bias", "cotangent_output"))
    scale = np.float32(q.shape[-1] ** -0.5)
    t = lambda x: x.swapaxes(-1, -2)  # noqa: E731
    s = blocked(q * scale, t(k), order) if scale_first else blocked(q, t(k), order) * scale
    s = s + bias
    p = np.exp(s - s.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    out = blocked(p, v, order)
    dp = blocked(g, t(v), order)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    return {
        "output": out,
        "dquery": blocked(ds, k, order) * scale,
        "dkey": blocked(t(ds), q, order) * scale,
        "dvalue": blocked(t(p), g, order),
        "dbias": ds.sum(0),
    }


@pytest.mark.parametrize("scale_first", [False, True])
@pytest.mark.parametrize("order", ["plain", "reversed", "one by one", "in pairs"])
@pytest.mark.parametrize("std", [0.1, 1.0, 10.0])
def test_honest_float32_stays_within_its_width(order, scale_first, std):
    """A small multiple of u*A + eta*A0 (DESIGN 4: below 5 for anything but one fused kernel), most far below it."""
    case = Attention(bias="hij", std=std, kv_len=41).case()
    arrays = tensors.make(case, 0)
    widths = truth.attention(case, arrays)
    for name, found in float32_attention(arrays, order, scale_first).items():
        assert found.dtype == np.float32
        ratio = np.abs(found - widths[name].truth) / (U * widths[name].a + ETA * widths[name].a0)
        assert ratio.max() < 2, name
        assert np.median(ratio) < 0.5, name


def test_a_bias_off_by_a_thousandth_is_far_outside_u_a():
    case = Attention(bias="hij").case()
    arrays = tensors.make(case, 0)
    widths = truth.attention(case, arrays)
    wrong = float32_attention(arrays | {"bias": arrays["bias"] * np.float32(1.001)}, "plain", False)
    for name, found in wrong.items():
        assert (np.abs(found - widths[name].truth) / (U * widths[name].a)).max() > 10, name


@pytest.mark.parametrize(
    ("tensor", "quantities"),
    [("value", ("output", "dquery", "dkey", "dbias")), ("cotangent_output", ("dquery", "dkey", "dvalue", "dbias"))],
)
def test_a_is_linear_where_the_function_is(tensor, quantities):
    case = Attention(bias="hij", causal=True).case()
    arrays = tensors.make(case, 0)
    once = truth.attention(case, arrays)
    twice = truth.attention(case, arrays | {tensor: 2 * arrays[tensor]})
    for name, width in twice.items():
        factor = 2 if name in quantities else 1
        np.testing.assert_allclose(width.a, factor * once[name].a, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(width.truth, factor * once[name].truth, rtol=1e-12, err_msg=name)


def test_a_grows_with_the_bias_though_nothing_else_changes():
    """A constant added to every score leaves the weights alone but costs digits."""
    case = Attention(bias="hij").case()
    arrays = tensors.make(case, 0)
    near = truth.attention(case, arrays)
    far = truth.attention(case, arrays | {"bias": arrays["bias"].astype(np.float64) + 1000.0})
    np.testing.assert_allclose(far["output"].truth, near["output"].truth, atol=1e-10)
    assert (far["output"].a > 50 * near["output"].a).all()


def test_what_is_masked_has_no_width_but_what_a_uniform_row_has():
    case = Attention(mask="bhij", values="empty-rows", bias="bhij").case()
    widths = truth.attention(case, tensors.make(case, 0))
    assert not widths["dbias"].a.any()
    assert not widths["dquery"].a.any()
    assert (widths["output"].a > 0).all()


def test_the_log_sum_exp_s_width_does_not_know_value():
    case = Attention(logsumexp=True).case()
    arrays = tensors.make(case, 0)
    once, other = (truth.attention(case, arrays | {"value": x}) for x in (arrays["value"], 7 * arrays["value"]))
    np.testing.assert_array_equal(once["logsumexp"].a, other["logsumexp"].a)
    assert not once["logsumexp"].a0.any()
