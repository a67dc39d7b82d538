"""S1 to S17 with numbers worked out by hand, held against all who compute attention.

`attention` is the float64 truth, the torch reference (plain and fused) and each of JAX's implementations that exist on
any device in turn, so that a misreading that two of them share still meets a literal number. Scores are logarithms of
small integers and the weights therefore fractions: the scores (0, ln 3) are the weights (1/4, 3/4).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import attend_jax
import attend_jax.linen
import attend_torch
from attend_jax import dispatch
from parity import truth
from parity.attention import Attention

LN2, LN3, LN7 = np.log([2.0, 3.0, 7.0]).tolist()
INF, NAN = np.inf, np.nan
INPUTS = ("query", "key", "value", "bias")


def by_truth(arrays, g, g_lse, *, dropout_rate=0.0, **arguments):
    case = Attention(dropout=dropout_rate, logsumexp=g_lse is not None, **arguments).case()
    cotangents = {"cotangent_output": g} | ({} if g_lse is None else {"cotangent_logsumexp": g_lse})
    with np.errstate(invalid="ignore"):  # S5 and S17: -inf minus -inf is meant
        return {name: width.truth for name, width in truth.attention(case, arrays | cotangents).items()}


def by_torch(implementation, arrays, g, g_lse, **arguments):
    tensors = {name: torch.tensor(array, requires_grad=name in INPUTS) for name, array in arrays.items()}
    result = attend_torch.attend(
        **tensors, **arguments, return_logsumexp=g_lse is not None, implementation=implementation
    )
    outputs = result if g_lse is not None else (result,)
    torch.autograd.backward(outputs, [torch.tensor(x) for x in (g, g_lse) if x is not None])
    named = dict(zip(("output", "logsumexp"), (x.detach().numpy() for x in outputs), strict=False))
    return named | {"d" + name: tensors[name].grad.numpy() for name in INPUTS if name in arrays}


def by_jax(implementation, arrays, g, g_lse, **arguments):
    constants = {name: array for name, array in arrays.items() if name not in INPUTS}

    def function(inputs):
        return attend_jax.attend(
            **inputs, **constants, **arguments, return_logsumexp=g_lse is not None, implementation=implementation
        )

    result, vjp = jax.vjp(function, {name: jnp.asarray(arrays[name]) for name in INPUTS if name in arrays})
    outputs = result if g_lse is not None else (result,)
    (gradients,) = vjp(jnp.asarray(g) if g_lse is None else (jnp.asarray(g), jnp.asarray(g_lse)))
    named = dict(zip(("output", "logsumexp"), map(np.asarray, outputs), strict=False))
    return named | {"d" + name: np.asarray(gradient) for name, gradient in gradients.items()}


PORTS = [row.name for row in dispatch.TABLE if row.platform is None]
WRITERS = {
    "truth": by_truth,
    "torch-plain": functools.partial(by_torch, "plain"),
    "torch-fused": functools.partial(by_torch, "fused"),
} | {f"jax-{name}": functools.partial(by_jax, name) for name in PORTS}
# What S5 and S17 say of values that are not finite is specified without a fused kernel only.
NOT_FUSED = ["truth", "torch-plain", "jax-einsum"]


def run(name, query, key, value, bias=None, *, g=None, g_lse=None, mask=None, dropout_mask=None, **arguments):
    """Outputs and gradients of one writer. Without `g` the output's cotangent is one everywhere."""
    floats = {"query": query, "key": key, "value": value, "bias": bias}
    arrays = {name: np.asarray(x, np.float32) for name, x in floats.items() if x is not None}
    booleans = {"mask": mask, "dropout_mask": dropout_mask}
    arrays |= {name: np.asarray(x, bool) for name, x in booleans.items() if x is not None}
    g = np.asarray(np.ones((*arrays["query"].shape[:-1], arrays["value"].shape[-1])) if g is None else g, np.float32)
    return WRITERS[name](arrays, g, None if g_lse is None else np.asarray(g_lse, np.float32), **arguments)


@pytest.fixture(params=WRITERS)
def attention(request):
    return functools.partial(run, request.param)


@pytest.fixture(params=NOT_FUSED)
def unfused(request):
    return functools.partial(run, request.param)


def rows(*numbers):
    """One batch, one head, one feature: (1, 1, n, 1)."""
    return np.array(numbers, np.float32).reshape(1, 1, -1, 1)


def heads(*numbers):
    """One batch, n heads, one row, one feature: (1, n, 1, 1)."""
    return np.array(numbers, np.float32).reshape(1, -1, 1, 1)


def same(actual, expected):
    """Equal to float32's rounding, NaN and inf where they are expected and nowhere else."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(np.asarray(actual, np.float64).reshape(expected.shape), expected, rtol=2e-6, atol=1e-6)


def test_s1_scores_are_scaled_by_the_root_of_the_head_size(attention):
    # d = 4, so the scale is 1/2: scores (0, 2 ln 3 / 2), weights (1/4, 3/4), output 4/4 + 3*8/4 = 7.
    query = [[[[2, 0, 0, 0]]]]
    key = [[[[0, 0, 0, 0], [LN3, 0, 0, 0]]]]
    result = attention(query, key, rows(4, 8))
    same(result["output"], [7])
    # dp = (4, 8), delta = 7, ds = (1/4 * -3, 3/4 * 1); dq = ds·k / 2, dk = ds * q / 2.
    same(result["dquery"], [0.375 * LN3, 0, 0, 0])
    same(result["dkey"], [[-0.75, 0, 0, 0], [0.75, 0, 0, 0]])
    same(result["dvalue"], [0.25, 0.75])


def test_s1_scale_replaces_the_root(attention):
    # scale 1: scores (0, 2 ln 3), weights (1/10, 9/10).
    result = attention([[[[2, 0, 0, 0]]]], [[[[0, 0, 0, 0], [LN3, 0, 0, 0]]]], rows(4, 8), scale=1.0)
    same(result["output"], [7.6])


def test_s1_no_keys_give_zeros(attention):
    empty = np.zeros((1, 1, 0, 1))
    result = attention(rows(1, 2), empty, np.zeros((1, 1, 0, 3)), g_lse=[[[1, 1]]])
    same(result["output"], np.zeros((1, 1, 2, 3)))
    same(result["logsumexp"], [-INF, -INF])
    same(result["dquery"], [0, 0])
    assert result["dkey"].shape == (1, 1, 0, 1)


@pytest.mark.parametrize("shape", [(0, 1, 2, 3), (1, 1, 0, 3), (1, 1, 2, 0)], ids=["b=0", "i=0", "e=0"])
def test_s1_empty_axes_give_empty_outputs(attention, shape):
    batch, head, q_len, value_dim = shape
    query, key, value = (np.ones((batch, head, *last)) for last in ((q_len, 5), (7, 5), (7, value_dim)))
    result = attention(query, key, value)
    assert result["output"].shape == shape
    same(result["dkey"], np.zeros((batch, head, 7, 5)))


def test_s2_bias_is_added_to_the_scaled_scores(attention):
    # d = 4: scores (0, ln 3), plus the bias (ln 3, 0): (ln 3, ln 3), weights (1/2, 1/2). Scaled with the scores it
    # would be (ln 3 / 2, ln 3).
    result = attention([[[[2, 0, 0, 0]]]], [[[[0, 0, 0, 0], [LN3, 0, 0, 0]]]], rows(4, 8), [[LN3, 0]])
    same(result["output"], [6])
    # dp = (4, 8), delta = 6: ds = (-1, 1).
    same(result["dbias"], [[-1, 1]])


# Two heads, two rows: the weights (1/4, 3/4), (1/2, 1/2) in head 0 and (1/8, 7/8), (3/4, 1/4) in head 1.
BIAS = np.array([[[[0, LN3], [0, 0]], [[0, LN7], [LN3, 0]]]])
FORMS = {
    "bhij": (BIAS, [[7, 6], [7.5, 5]]),
    "hij": (BIAS[0], [[7, 6], [7.5, 5]]),
    "1ij": (BIAS[0, 1:], [[7.5, 5], [7.5, 5]]),
    "ij": (BIAS[0, 1], [[7.5, 5], [7.5, 5]]),
    "bh1j": (BIAS[:, :, :1], [[7, 7], [7.5, 7.5]]),
    "b1ij": (BIAS[:, :1], [[7, 6], [7, 6]]),
    "111j": (BIAS[:, :1, :1], [[7, 7], [7, 7]]),
    "j": (BIAS[0, 0, 0], [[7, 7], [7, 7]]),
    "bhi1": (BIAS[:, :, :, 1:], [[6, 6], [6, 6]]),
    "scalar": (np.array(5.0), [[6, 6], [6, 6]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_s2_bias_broadcasts_and_its_gradient_has_its_own_shape(attention, form):
    bias, expected = FORMS[form]
    query, key, value = np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), np.tile(rows(4, 8), (1, 2, 1, 1))
    result = attention(query, key, value, bias)
    same(result["output"], [expected])
    # ds of a row with weights (w, 1-w) is w(1-w) * (-4, 4): 3/4, 1, 7/16 and 3/4 for the rows above.
    full = np.array([[[[-0.75, 0.75], [-1, 1]], [[-0.4375, 0.4375], [-0.75, 0.75]]]])
    assert result["dbias"].shape == bias.shape
    if form in ("bhij", "hij"):
        same(result["dbias"], full.reshape(bias.shape))
    elif form == "b1ij":  # both heads have head 0's weights
        same(result["dbias"], 2 * full[:, :1])
    elif form in ("111j", "j"):  # four times row 0 of head 0
        same(result["dbias"], (4 * full[0, 0, 0]).reshape(bias.shape))
    elif form in ("bhi1", "scalar"):  # constant along the keys
        same(result["dbias"], np.zeros(bias.shape))


@pytest.mark.parametrize("implementation", PORTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_s2_a_float32_bias_promotes_16_bit_scores(dtype, implementation):
    # 2049 needs 12 bits: as bfloat16 or float16 it is 2048, and the weights (1/2, 1/2). Promoted they are
    # (1, e) / (1 + e), whose second, times a value of 1, is 0.7310586 and rounds to 16 bits.
    bias = np.array([[2048.0, 2049.0]], np.float32)
    zero, value = np.zeros((1, 1, 2, 1)), rows(0, 1)
    t = [torch.tensor(x, dtype=getattr(torch, dtype)) for x in (zero[:, :, :1], zero, value)]
    j = [jnp.asarray(x, dtype) for x in (zero[:, :, :1], zero, value)]
    ours = attend_torch.attend(*t, torch.tensor(bias))
    port = attend_jax.attend(*j, jnp.asarray(bias), implementation=implementation)
    assert ours.dtype == t[0].dtype
    assert port.dtype == j[0].dtype
    assert ours.item() == port.item() == pytest.approx(0.7310586, abs=2e-3)


@pytest.mark.parametrize("implementation", PORTS)
def test_s2_a_narrower_bias_is_promoted_and_keeps_its_dtype_in_the_gradient(implementation):
    query, key, value = rows(0), rows(0, 0), rows(4, 8)
    bias = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    output = attend_torch.attend(*map(torch.tensor, (query, key, value)), bias)
    output.sum().backward()
    port = functools.partial(attend_jax.attend, query, key, value, implementation=implementation)
    gradient = jax.grad(lambda bias: port(bias).sum())(jnp.array([[0, 1]], jnp.bfloat16))
    # The weight of the second is e / (1 + e) = 0.7310586, ds = w (1 - w) * 4 = 0.7864477.
    same(output.detach(), [4 + 4 * 0.7310586])
    assert bias.grad.dtype == torch.bfloat16
    assert gradient.dtype == jnp.bfloat16
    assert bias.grad[0, 1].item() == pytest.approx(0.7864477, rel=2**-8)
    assert float(gradient[0, 1]) == pytest.approx(0.7864477, rel=2**-8)


def test_s3_causal_lines_up_the_last_query_with_the_last_key(attention):
    # i = 2, j = 3: row 0 sees keys 0 and 1, row 1 all.
    result = attention(rows(0, 0), rows(0, 0, 0), rows(1, 2, 6), causal=True)
    same(result["output"], [1.5, 3])
    same(result["dvalue"], [1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3])


def test_s3_what_may_not_be_attended_is_replaced_after_the_bias(attention):
    bias = np.array([[0, LN3, 1e4], [0, 0, LN2]])
    result = attention(rows(0, 0), rows(0, 0, 0), rows(1, 2, 6), bias, causal=True)
    # Row 0: weights (1/4, 3/4, 0); row 1: (1/4, 1/4, 1/2).
    same(result["output"], [1.75, 3.75])
    same(result["dbias"], [[-0.1875, 0.1875, 0], [-2.75 / 4, -1.75 / 4, 2.25 / 2]])


def test_s4_a_row_that_may_attend_nothing_attends_everything_uniformly(attention):
    # i = 3, j = 2: row 0 sees nothing, row 1 key 0, row 2 both with the weights (1/4, 3/4).
    result = attention(rows(1, 1, 1), rows(0, LN3), rows(2, 6), np.array([[0, 5], [0, 0], [0, 0]]),
                       causal=True, g=rows(1, 10, 100))  # fmt: skip
    same(result["output"], [4, 2, 5])
    # Row 2: ds = 100 * (1/4 * (2 - 5), 3/4 * (6 - 5)). Rows 0 and 1 have no choice, so no gradient.
    same(result["dquery"], [0, 0, 75 * LN3])
    same(result["dbias"], [[0, 0], [0, 0], [-75, 75]])
    same(result["dkey"], [-75, 75])
    # The empty row gives g/j = 1/2 to each.
    same(result["dvalue"], [0.5 + 10 + 25, 0.5 + 75])


def test_s4_holds_before_dropout(attention):
    # Row 0 sees nothing: weights (1/2, 1/2), of which the first is kept and doubled.
    result = attention(rows(1, 1), rows(3), rows(7), mask=[[False], [True]], dropout_rate=0.5,
                       dropout_mask=[[[[True], [False]]]])  # fmt: skip
    same(result["output"], [14, 0])
    same(result["dquery"], [0, 0])
    same(result["dvalue"], [2])


def test_s5_a_row_of_minus_infinity_is_uniform_over_what_is_masked(unfused):
    # Upper left, i = 2, j = 3: row 0 may attend key 0 only, whose bias is -inf; keys 1 and 2 hold the fill, whatever
    # their bias. Row 1 may attend 0 and 1, equally.
    bias = np.array([[-INF, 5, 7], [0, 0, 0]])
    result = unfused(rows(1, 1), rows(0, 0, LN2), rows(1, 2, 6), bias, causal="upper_left", g=rows(1, 10))
    same(result["output"], [4, 1.5])
    same(result["dquery"], [0, 0])
    # Row 1: 10 * (1/2 * -1/2, 1/2 * 1/2).
    same(result["dbias"], [[0, 0, 0], [-2.5, 2.5, 0]])
    same(result["dvalue"], [5, 5.5, 0.5])


def test_s5_minus_infinity_meets_the_mask_as_it_meets_causal(unfused):
    result = unfused(rows(1), rows(0, 0, 0), rows(1, 2, 6), np.array([[-INF, 5, 7]]), mask=[[True, False, False]])
    same(result["output"], [4])
    same(result["dbias"], [[0, 0, 0]])


def test_s5_without_anything_masked_it_is_nan_in_its_own_batch_and_head_only(unfused):
    bias = np.zeros((1, 2, 2, 2))
    bias[0, 0, 0] = -INF
    result = unfused(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), np.tile(rows(4, 8), (1, 2, 1, 1)), bias)
    same(result["output"], [[[NAN, 6], [6, 6]]])
    same(result["dkey"], [[[NAN, NAN], [-2, 2]]])
    same(result["dvalue"], [[[NAN, NAN], [1, 1]]])


def test_s6_kept_weights_are_divided_by_what_is_kept(attention):
    # Weights (1/4, 3/4) with p = 3/4: the first is kept and becomes 1, the second goes.
    result = attention(rows(1), rows(0, LN3), rows(4, 8), dropout_rate=0.75, dropout_mask=[[[[True, False]]]])
    same(result["output"], [4])
    # dp = (4 * 4, 0), delta = 1/4 * 16 = 4: ds = (1/4 * 12, 3/4 * -4).
    same(result["dquery"], [-3 * LN3])
    same(result["dkey"], [3, -3])
    same(result["dvalue"], [1, 0])


def test_s6_dropping_everything_gives_zeros_and_zero_gradients(attention):
    result = attention(rows(1), rows(0, LN3), rows(4, 8), np.zeros((1, 2)), dropout_rate=1.0,
                       dropout_mask=[[[[True, False]]]])  # fmt: skip
    for name in ("output", "dquery", "dkey", "dvalue", "dbias"):
        same(result[name], np.zeros_like(result[name]))


def test_s7_one_key_head_serves_all_query_heads(attention):
    result = attention(heads(0, 1, 2), rows(0, LN3), rows(4, 8))
    # Scores (0, 0), (0, ln 3), (0, 2 ln 3): weights of the second 1/2, 3/4, 9/10.
    same(result["output"], [6, 7, 7.6])
    same(result["dvalue"], [0.5 + 0.25 + 0.1, 0.5 + 0.75 + 0.9])
    # dk of key 1: sum of q * w (1 - w) * 4 = 0 + 3/4 + 2 * 0.36.
    same(result["dkey"], [-1.47, 1.47])


CORNERS = [(False, True, [1.5, 3]), (True, True, [1, 1.5])] + [
    (flash, corner, expected)
    for flash in (False, True)
    for corner, expected in (("lower_right", [1.5, 3]), ("upper_left", [1, 1.5]))
]


@pytest.mark.parametrize(("flash", "causal", "expected"), CORNERS)
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_s8_to_s11_the_corner_follows_flash_unless_it_is_named(flash, causal, expected, biased):
    # i = 2, j = 3. Lower right: row 0 sees keys 0, 1, row 1 all. Upper left: row 0 sees key 0, row 1 keys 0, 1.
    # With flash the original refuses a bias; here it counts (S11): ln 2 on key 1 where it is seen.
    if biased:
        expected = {1.5: 5 / 3, 3: 11 / 4, 1: 1}[expected[0]], {1.5: 5 / 3, 3: 11 / 4, 1: 1}[expected[1]]
    arrays = [rows(0, 0), rows(0, 0, 0), rows(1, 2, 6), np.array([[0, LN2, 0]], np.float32)][: 4 if biased else 3]
    tensors, options = [torch.tensor(x) for x in arrays], {"flash": flash, "causal": causal}
    same(attend_torch.Attend(**options)(*tensors), expected)
    same(attend_jax.Attend(**options)(*arrays), expected)
    same(attend_jax.linen.Attend(**options).apply({}, *arrays), expected)
    named = dict(zip(INPUTS, arrays, strict=False))
    case = Attention(**options).case()
    same(truth.attention(case, named | {"cotangent_output": rows(1, 1)})["output"].truth, expected)


def test_s10_a_tall_upper_left_corner_has_no_empty_rows(attention):
    # i = 3, j = 2: row 0 sees key 0, rows 1 and 2 both.
    result = attention(rows(1, 1, 1), rows(0, LN3), rows(2, 6), causal="upper_left", g=rows(1, 10, 100))
    same(result["output"], [2, 5, 5])
    same(result["dvalue"], [1 + 2.5 + 25, 7.5 + 75])


def test_s12_the_mask_joins_causal_by_and(attention):
    # Lower right, i = j = 3, key 0 masked: row 0 sees nothing and is the mean of all three (S4), row 1 sees key 1,
    # row 2 keys 1 and 2 with the weights (1/4, 3/4).
    result = attention(rows(1, 1, 1), rows(9, 0, LN3), rows(1, 2, 6), causal=True, mask=[False, True, True])
    same(result["output"], [3, 2, 5])
    same(result["dkey"], [0, -0.75, 0.75])
    same(result["dvalue"], [1 / 3, 1 / 3 + 1 + 0.25, 1 / 3 + 0.75])


def test_s12_the_mask_comes_after_the_bias(attention):
    result = attention(rows(0), rows(0, 0), rows(4, 8), np.array([[0, 1e4]]), mask=[[True, False]])
    same(result["output"], [4])
    same(result["dbias"], [[0, 0]])


def test_s13_neighbouring_query_heads_share_a_key_head(attention):
    # Query heads 0, 1 read key head 0 with the keys (0, ln 3), heads 2, 3 key head 1 with (0, ln 2): the weights of the
    # second key are 3/4, 9/10 and 2/3, 4/5.
    key, value = np.array([[[[0], [LN3]], [[0], [LN2]]]]), np.array([[[[4], [8]], [[10], [40]]]])
    result = attention(heads(1, 2, 1, 2), key, value, g=heads(1, 10, 100, 1000))
    same(result["output"], [7, 7.6, 30, 34])
    same(result["dvalue"], [[0.25 + 1, 0.75 + 9], [100 / 3 + 200, 200 / 3 + 800]])


def test_s14_the_other_layout_moves_heads_but_not_those_of_bias_and_logsumexp(attention):
    # (b n h d) with two rows and two heads; the bias is (h i j) all the same.
    query, key = np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1))
    value = np.array([[[[4], [0]], [[8], [16]]]])  # key 0 holds 4 and 0, key 1 holds 8 and 16 in heads 0 and 1
    bias = np.array([[[0, LN3], [0, 0]], [[0, LN7], [LN3, 0]]])
    result = attention(query, key, value, bias, layout="bnhd", g_lse=np.zeros((1, 2, 2)))
    # Head 0: rows 1+6, 2+4; head 1: rows 14, 4.
    same(result["output"], [[[[7], [14]], [[6], [4]]]])
    same(result["logsumexp"], [[[2 * LN2, LN2], [3 * LN2, 2 * LN2]]])
    same(result["dvalue"], [[[[0.75], [0.875]], [[1.25], [1.125]]]])


def test_s15_the_logsumexp_counts_allowed_keys_and_passes_their_weights_back(attention):
    # Lower right, i = 3, j = 2: row 0 sees nothing, row 1 key 0: ln 1, row 2 both: ln (1 + 3).
    result = attention(rows(1, 1, 1), rows(0, LN3), rows(0, 0), np.zeros((3, 2)), causal=True,
                       g_lse=[[[1, 10, 100]]])  # fmt: skip
    same(result["logsumexp"], [-INF, 0, 2 * LN2])
    # The gradient to the scores is g * p, and zero for the empty row.
    same(result["dbias"], [[0, 0], [10, 0], [25, 75]])
    same(result["dquery"], [0, 0, 75 * LN3])
    same(result["dkey"], [35, 75])


def test_s15_a_row_of_minus_infinity_has_no_gradient(unfused):
    result = unfused(rows(1, 1), rows(0, 0), rows(0, 0), np.array([[-INF, 0], [0, LN3]]), causal=True,
                     g_lse=[[[1, 1]]])  # fmt: skip
    same(result["logsumexp"], [-INF, 2 * LN2])
    same(result["dbias"], [[0, 0], [0.25, 0.75]])
    same(result["dquery"], [0, 0])


@pytest.mark.parametrize("implementation", PORTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_s15_the_logsumexp_of_16_bit_inputs_is_float32_and_not_rounded_to_16_bits(dtype, implementation):
    # ln 3 = 1.0986123: 1.1015625 as bfloat16, 1.0986328 as float16.
    query, value = np.zeros((1, 1, 1, 1)), rows(1, 2, 6)
    _, ours = attend_torch.attend(
        *(torch.tensor(x, dtype=getattr(torch, dtype)) for x in (query, 0 * value, value)), return_logsumexp=True
    )
    _, port = attend_jax.attend(
        *(jnp.asarray(x, dtype) for x in (query, 0 * value, value)),
        return_logsumexp=True,
        implementation=implementation,
    )
    assert ours.dtype == torch.float32
    assert port.dtype == jnp.float32
    same(ours, [LN3])
    same(port, [LN3])


def test_s16_true_keeps_and_the_place_is_that_of_the_weight(attention):
    # Two heads, two rows, uniform weights (1/2, 1/2), doubled where kept: the output is the sum of the kept values.
    keep = [[[[True, False], [False, True]], [[True, True], [False, False]]]]
    result = attention(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), np.tile(rows(4, 8), (1, 2, 1, 1)),
                       dropout_rate=0.5, dropout_mask=keep)  # fmt: skip
    same(result["output"], [[[4, 8], [12, 0]]])
    # dp = 2 * keep * v, delta = half its sum: the first row (8, 0) - 4, halved.
    same(result["dkey"], [[[2 - 4, -2 + 4], [-2, 2]]])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "rate=0"])
def test_s16_a_dropout_mask_in_evaluation_is_an_error(training):
    arrays, keep = (rows(1), rows(0, 1), rows(4, 8)), np.ones((1, 1, 1, 2), bool)
    rate = 0.0 if training else 0.5
    reference, port = attend_torch.Attend(dropout=rate).train(training), attend_jax.Attend(dropout=rate)
    port.train() if training else port.eval()
    with pytest.raises(ValueError, match="`dropout_mask` drops weights in training only"):
        reference(*map(torch.tensor, arrays), dropout_mask=torch.tensor(keep))
    with pytest.raises(ValueError, match="`dropout_mask` drops weights in training only"):
        port(*arrays, dropout_mask=keep)
    with pytest.raises(ValueError, match="`dropout_mask` drops weights in training only"):
        attend_jax.linen.Attend(dropout=rate).apply({}, *arrays, dropout_mask=keep, deterministic=not training)


def test_s17_a_nan_value_behind_the_mask_spreads_to_all_rows(unfused):
    # 0 * NaN: its weight is zero, and its feature NaN in every row; the other feature is the mean of 1 and 3.
    value = [[[[1, 1], [3, 3], [NAN, 5]]]]
    result = unfused(rows(0, 0), rows(0, 0, 0), value, mask=[True, True, False])
    same(result["output"], [[[[NAN, 2], [NAN, 2]]]])


def test_s17_a_nan_key_behind_the_mask_shows_in_the_gradient_of_the_query_only(unfused):
    result = unfused(rows(1), rows(0, LN3, NAN), rows(4, 8, 100), mask=[True, True, False])
    same(result["output"], [7])
    same(result["dquery"], [NAN])
    same(result["dkey"], [-0.75, 0.75, 0])
