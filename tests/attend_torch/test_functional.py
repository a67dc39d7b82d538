"""The reference: properties that hold for plain and fused alike, and that the two are one function."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attend_torch import attend

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 6, 3, 5, 7, 11, 13
close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=2e-6)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.tensor(np.random.default_rng((seed, *shape)).standard_normal(shape), dtype=dtype)


def inputs(kv_heads=KV_HEADS, dtype=torch.float32):
    return (
        normal(BATCH, HEADS, Q_LEN, HEAD_DIM, dtype=dtype),
        normal(BATCH, kv_heads, KV_LEN, HEAD_DIM, dtype=dtype),
        normal(BATCH, kv_heads, KV_LEN, VALUE_DIM, dtype=dtype),
    )


def gradients(function, tensors):
    tensors = [x.clone().requires_grad_() for x in tensors]
    function(*tensors).sin().sum().backward()
    return [x.grad for x in tensors]


BIAS = normal(HEADS, Q_LEN, KV_LEN)
implementations = pytest.mark.parametrize("implementation", ["plain", "fused"])


@pytest.mark.parametrize("causal", [False, "lower_right", "upper_left"])
@pytest.mark.parametrize("q_len", [3, 7, 11])
@pytest.mark.parametrize("bias", [None, (HEADS, -1, 1), (-1, KV_LEN), (KV_LEN,), (BATCH, 1, -1, KV_LEN), ()], ids=str)
@pytest.mark.parametrize("mask", [None, (BATCH, 1, 1, KV_LEN), (HEADS, -1, KV_LEN), (-1, 1)], ids=str)
def test_fused_is_plain(causal, q_len, bias, mask):
    def sized(shape):
        return [q_len if size == -1 else size for size in shape]

    # In float64, so that a wrong rewrite cannot hide in rounding.
    tensors = [normal(BATCH, HEADS, q_len, HEAD_DIM), *inputs()[1:]] + ([] if bias is None else [normal(*sized(bias))])
    tensors = [x.double() for x in tensors]
    # Some rows of every mask that has rows are empty.
    keep = None if mask is None else (normal(*sized(mask)) > -0.5) & (normal(*sized(mask)[:-1], 1, seed=1) > -0.7)

    def run(implementation, *tensors):
        return attend(*tensors, mask=keep, causal=causal, implementation=implementation)

    plain, fused = (gradients(functools.partial(run, implementation), tensors) for implementation in ("plain", "fused"))
    close(run("fused", *tensors), run("plain", *tensors), atol=1e-12)
    close(fused, plain, atol=1e-12)


@implementations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_keys_and_values_have_no_effect_at_all(implementation, dtype):
    query, key, value = inputs(dtype=dtype)
    mask = torch.arange(KV_LEN) != 3
    run = functools.partial(attend, query, mask=mask, return_logsumexp=True, implementation=implementation)
    output, logsumexp = run(key, value)
    key[:, :, 3], value[:, :, 3] = 100, -1e4
    other, other_logsumexp = run(key, value)
    assert torch.equal(other, output)
    assert torch.equal(other_logsumexp, logsumexp)


@implementations
def test_batches_and_heads_do_not_see_one_another(implementation):
    arrays, bias = inputs(kv_heads=HEADS), normal(BATCH, HEADS, Q_LEN, KV_LEN)
    run = functools.partial(attend, causal=True, implementation=implementation)
    output, order = run(*arrays, bias), torch.tensor([3, 1, 5, 0, 4, 2])
    close(run(*(x.flip(0)[:, order] for x in (*arrays, bias))), output.flip(0)[:, order])


@implementations
def test_the_order_of_the_keys_does_not_matter(implementation):
    query, key, value = inputs()
    order, mask = torch.tensor([6, 2, 0, 5, 1, 3, 4]), torch.arange(KV_LEN) != 2
    run = functools.partial(attend, query, implementation=implementation)
    output = run(key, value, BIAS, mask=mask)
    close(run(key[:, :, order], value[:, :, order], BIAS[..., order], mask=mask[order]), output)


@implementations
def test_a_bias_that_is_constant_along_the_keys_changes_nothing_but_the_logsumexp(implementation):
    constant = normal(HEADS, Q_LEN, 1)
    run = functools.partial(attend, *inputs(), return_logsumexp=True, implementation=implementation)
    (output, logsumexp), (shifted, shifted_logsumexp) = run(BIAS), run(BIAS + constant)
    close(shifted, output)
    close(shifted_logsumexp, logsumexp + constant[..., 0])


@implementations
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_grouped_heads_are_repeated_heads(implementation, kv_heads):
    def grouped(query, key, value):
        return attend(query, key, value, BIAS, causal=True, implementation=implementation)

    def repeated(query, key, value):
        return grouped(query, *(x.repeat_interleave(HEADS // kv_heads, dim=1) for x in (key, value)))

    close(gradients(grouped, inputs(kv_heads)), gradients(repeated, inputs(kv_heads)))


@implementations
def test_the_layouts_are_transposes_of_each_other(implementation):
    def bhnd(*tensors):
        return attend(*tensors, BIAS, causal=True, implementation=implementation)

    def bnhd(*tensors):
        swapped = (x.transpose(1, 2) for x in tensors)
        output = attend(*swapped, BIAS, causal=True, implementation=implementation, layout="bnhd")
        assert output.shape == (BATCH, Q_LEN, HEADS, VALUE_DIM)
        return output.transpose(1, 2)

    close(bnhd(*inputs()), bhnd(*inputs()))
    close(gradients(bnhd, inputs()), gradients(bhnd, inputs()))


@given(
    batch=st.integers(1, 3), group=st.integers(1, 3), kv_heads=st.integers(1, 3), q_len=st.integers(1, 17),
    kv_len=st.integers(1, 17), causal=st.sampled_from([False, True, "upper_left"]),
    implementation=st.sampled_from(["plain", "fused"]),
)  # fmt: skip
@settings(max_examples=50, deadline=None, derandomize=True)
def test_weights_sum_to_one_in_every_row_even_an_empty_one(
    batch, group, kv_heads, q_len, kv_len, causal, implementation
):
    # With ones as values the output is the sum of the weights.
    query, key = normal(batch, group * kv_heads, q_len, 3), normal(batch, kv_heads, kv_len, 3)
    value = torch.ones(batch, kv_heads, kv_len, 2)
    output = attend(query, key, value, causal=causal, implementation=implementation)
    close(output, torch.ones(batch, group * kv_heads, q_len, 2))


@implementations
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"return_logsumexp": True}], ids=str)
def test_the_gradient_agrees_with_finite_differences(implementation, options):
    query, key, value, bias = (
        normal(*shape, dtype=torch.float64).requires_grad_()
        for shape in ((2, 2, 3, 3), (2, 1, 5, 3), (2, 1, 5, 2), (2, 1, 5))
    )
    function = functools.partial(attend, implementation=implementation, **options)
    assert torch.autograd.gradcheck(function, (query, key, value, bias))


@implementations
def test_the_logsumexp_is_the_same_beside_either_and_its_gradient_is_the_mean_key(implementation):
    query, key, value = inputs()

    def logsumexp(query):
        return attend(query, key, value, return_logsumexp=True, implementation=implementation)[1]

    (gradient,) = gradients(logsumexp, [query])
    mean_key = attend(query, key, key)
    close(gradient, mean_key * HEAD_DIM**-0.5 * logsumexp(query).cos()[..., None])


@pytest.mark.parametrize("number", [7e4, -1e9], ids=["above", "below"])
@implementations
def test_a_float32_bias_beyond_float16_stays_finite(implementation, number):
    # 65504 is the largest float16. In float32, where the scores are, both are ordinary numbers (S2).
    tensors = inputs(dtype=torch.float16)
    bias = torch.zeros(Q_LEN, KV_LEN)
    bias[:, 3] = number
    output = attend(*tensors, bias, implementation=implementation)
    expected = attend(*(x.double() for x in tensors), bias.double())
    close(output.double(), expected, rtol=0, atol=5e-3)


def test_a_generator_decides_what_is_dropped():
    query, key, _ = inputs()
    value = torch.eye(KV_LEN).expand(BATCH, KV_HEADS, KV_LEN, KV_LEN)  # so that the output is the weights

    def run(seed):
        rng = torch.Generator().manual_seed(seed)
        return attend(query, key, value, dropout_rate=0.25, dropout_rng=rng)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    kept = run(0) != 0
    close(run(0), kept * attend(query, key, value) / 0.75)
    assert abs(kept.float().mean().item() - 0.75) < 6 * (0.75 * 0.25 / kept.numel()) ** 0.5


@implementations
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_dropout_by_the_global_generator(implementation, rate):
    query, key, value = (x.requires_grad_() for x in inputs())
    torch.manual_seed(0)
    output = attend(query, key, value, dropout_rate=rate, implementation=implementation)
    assert not torch.allclose(output, attend(query, key, value))
    output.sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, key, value))
    if rate == 1:
        assert not output.any()
        assert not any(x.grad.any() for x in (query, key, value))


@implementations
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_of_the_results(implementation, dtype):
    output, logsumexp = attend(*inputs(dtype=dtype), return_logsumexp=True, implementation=implementation)
    assert output.dtype == dtype
    assert logsumexp.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
