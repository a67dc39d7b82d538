"""Einsum, the implementation that does everything: properties, accuracy, and derivatives."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

import attend_jax
from attend_jax.implementations import einsum

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 6, 3, 5, 7, 11, 13

attend = functools.partial(attend_jax.attend, implementation="einsum")


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), dtype)


def inputs(kv_heads=KV_HEADS, dtype=jnp.float32):
    return (
        normal(BATCH, HEADS, Q_LEN, HEAD_DIM, dtype=dtype),
        normal(BATCH, kv_heads, KV_LEN, HEAD_DIM, dtype=dtype),
        normal(BATCH, kv_heads, KV_LEN, VALUE_DIM, dtype=dtype),
    )


BIAS = normal(HEADS, Q_LEN, KV_LEN)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_masked_keys_and_values_have_no_effect_at_all(dtype):
    query, key, value = inputs(dtype=dtype)
    mask = jnp.ones((BATCH, 1, 1, KV_LEN), bool).at[:, :, :, 3].set(False)
    output, logsumexp = attend(query, key, value, BIAS, mask=mask, return_logsumexp=True)
    key, value = key.at[:, :, 3].set(100), value.at[:, :, 3].set(-1e4)
    other, other_logsumexp = attend(query, key, value, BIAS, mask=mask, return_logsumexp=True)
    np.testing.assert_array_equal(other, output)
    np.testing.assert_array_equal(other_logsumexp, logsumexp)


def test_keys_behind_the_causal_corner_have_no_effect_on_earlier_rows():
    query, key, value = inputs()
    run = functools.partial(attend, query, causal="upper_left")
    output = run(key, value)
    other = run(key.at[:, :, 3].add(1), value.at[:, :, 3].add(1))
    np.testing.assert_array_equal(other[:, :, :3], output[:, :, :3])
    assert (other[:, :, 3:] != output[:, :, 3:]).any(axis=-1).all()


def test_batches_do_not_see_one_another():
    bias, order = normal(BATCH, HEADS, Q_LEN, KV_LEN), [1, 0]
    output = attend(*inputs(), bias)
    close(attend(*(x[jnp.array(order)] for x in (*inputs(), bias))), output[jnp.array(order)])


def test_heads_do_not_see_one_another():
    order = jnp.array([3, 1, 5, 0, 4, 2])
    arrays = inputs(kv_heads=HEADS)
    output = attend(*arrays, BIAS, causal=True)
    close(attend(*(x[:, order] for x in arrays), BIAS[order], causal=True), output[:, order])


def test_the_order_of_the_keys_does_not_matter():
    query, key, value = inputs()
    order = jnp.array([6, 2, 0, 5, 1, 3, 4])
    mask = jnp.arange(KV_LEN) != 2
    output = attend(query, key, value, BIAS, mask=mask)
    close(attend(query, key[:, :, order], value[:, :, order], BIAS[..., order], mask=mask[order]), output)


def test_a_bias_that_is_constant_along_the_keys_changes_nothing_but_the_logsumexp():
    constant = normal(HEADS, Q_LEN, 1)
    output, logsumexp = attend(*inputs(), BIAS, return_logsumexp=True)
    shifted, shifted_logsumexp = attend(*inputs(), BIAS + constant, return_logsumexp=True)
    close(shifted, output)
    close(shifted_logsumexp, logsumexp + constant[..., 0])


def test_the_output_is_linear_in_the_values():
    query, key, value = inputs()
    other = normal(*value.shape, seed=1)
    close(attend(query, key, 2 * value - other), 2 * attend(query, key, value) - attend(query, key, other), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_grouped_heads_are_repeated_heads(kv_heads):
    arrays = inputs(kv_heads)

    def grouped(query, key, value):
        return jnp.sin(attend(query, key, value, BIAS, causal=True)).sum()

    def repeated(query, key, value):
        key, value = (jnp.repeat(x, HEADS // kv_heads, axis=1) for x in (key, value))
        return jnp.sin(attend(query, key, value, BIAS, causal=True)).sum()

    jax.tree.map(close, *(jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*arrays) for f in (grouped, repeated)))


def test_the_layouts_are_transposes_of_each_other():
    arrays, mask = inputs(), normal(BATCH, 1, Q_LEN, KV_LEN) > -1

    def bhnd(*arrays):
        output, logsumexp = attend(*arrays, BIAS, mask=mask, causal=True, return_logsumexp=True)
        return jnp.sin(output).sum() + jnp.where(mask.any(), logsumexp, 0).sum(), (output, logsumexp)

    def bnhd(*arrays):
        swapped = (x.swapaxes(1, 2) for x in arrays)
        output, logsumexp = attend(*swapped, BIAS, mask=mask, causal=True, return_logsumexp=True, layout="bnhd")
        assert output.shape == (BATCH, Q_LEN, HEADS, VALUE_DIM)
        return jnp.sin(output).sum() + jnp.where(mask.any(), logsumexp, 0).sum(), (output.swapaxes(1, 2), logsumexp)

    both = (jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(*arrays) for f in (bhnd, bnhd))
    jax.tree.map(close, *both)


FORMS = [
    (1, 1, 1, KV_LEN),
    (BATCH, 1, Q_LEN, 1),
    (1, HEADS, Q_LEN, KV_LEN),
    (HEADS, 1, KV_LEN),
    (Q_LEN, KV_LEN),
    (KV_LEN,),
    (),
]


@pytest.mark.parametrize("shape", FORMS, ids=str)
def test_a_bias_or_mask_is_what_it_broadcasts_to(shape):
    bias, mask = normal(*shape), normal(*shape, seed=1) > -1
    full = (BATCH, HEADS, Q_LEN, KV_LEN)
    expected = attend(*inputs(), jnp.broadcast_to(bias, full), mask=jnp.broadcast_to(mask, full))
    close(attend(*inputs(), bias, mask=mask), expected)


@given(
    batch=st.integers(1, 3), group=st.integers(1, 3), kv_heads=st.integers(1, 3), q_len=st.integers(1, 9),
    kv_len=st.integers(1, 9), causal=st.sampled_from([False, True, "upper_left"]),
)  # fmt: skip
@settings(max_examples=5, deadline=None, derandomize=True)
def test_weights_sum_to_one_in_every_row_even_an_empty_one(batch, group, kv_heads, q_len, kv_len, causal):
    # With ones as values the output is the sum of the weights.
    query, key = normal(batch, group * kv_heads, q_len, 3), normal(batch, kv_heads, kv_len, 3)
    output = attend(query, key, jnp.ones((batch, kv_heads, kv_len, 2)), causal=causal)
    close(output, np.ones((batch, group * kv_heads, q_len, 2)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_of_the_results(dtype):
    output, logsumexp = attend(*inputs(dtype=dtype), BIAS.astype(jnp.bfloat16 if dtype != jnp.float16 else dtype),
                               return_logsumexp=True)  # fmt: skip
    assert output.dtype == dtype
    assert logsumexp.dtype == jnp.float32


def test_float64_is_float64_throughout():
    with jax.enable_x64():
        query, key, value = (x.astype(jnp.float64) for x in inputs())
        output, logsumexp = attend(query, key, value, causal=True, return_logsumexp=True)
        assert output.dtype == logsumexp.dtype == jnp.float64
        scores = np.einsum("bhid,bhjd->bhij", query, np.repeat(key, 2, axis=1)) / np.sqrt(HEAD_DIM)
        scores = np.where(np.tri(Q_LEN, KV_LEN, KV_LEN - Q_LEN, dtype=bool), scores, -np.inf)
        np.testing.assert_allclose(logsumexp, np.log(np.exp(scores).sum(axis=-1)), rtol=1e-14)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64", "ignore:overflow encountered in cast")
def test_numpy_float64_is_the_float32_that_jax_makes_of_it():
    # Without x64. Some rows are empty: their fill has to be finite in float32 (S4).
    query, key, value = (np.asarray(x, np.float64) for x in inputs())
    key, value = key[:, :, :3], value[:, :, :3]
    expected = attend(*map(jnp.asarray, (query, key, value)), causal=True)
    actual = attend(query, key, value, causal=True)
    assert actual.dtype == expected.dtype == jnp.float32
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (jnp.float32, None, "HIGHEST"),
        (jnp.bfloat16, None, None),
        (jnp.float32, "default", "DEFAULT"),
        (jnp.float32, jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, "TF32_TF32_F32_X3"),
    ],
)
def test_precision_is_full_for_float32_unless_it_is_given(dtype, given, expected):
    text = str(jax.make_jaxpr(functools.partial(attend, precision=given))(*inputs(dtype=dtype)))
    found = re.findall(r"\bprecision=\(?(?:[A-Z]\w*\.)?(\w+)", text)
    assert [x for x in found if x != "None"] == ([] if expected is None else [expected] * 2)
    assert text.count("preferred_element_type=float32") == 2


def test_the_default_matmul_precision_of_the_user_is_respected():
    with jax.default_matmul_precision("bfloat16"):
        text = str(jax.make_jaxpr(attend)(*inputs()))
    assert "HIGHEST" not in text


DERIVATIVES = {
    "bias, upper left": {"bias": (HEADS, 3, 2), "causal": "upper_left"},
    "empty rows": {"causal": "lower_right", "mask": (2, 1, 3, 2)},
    "dropout": {"dropout_rate": 0.5, "dropout_mask": (2, 6, 3, 2)},
    "logsumexp": {"causal": "lower_right", "return_logsumexp": True},
}


@pytest.mark.parametrize("value_dim", [1, 3], ids=["fewer features than keys", "more"])  # more: `_turned`
@pytest.mark.parametrize("options", DERIVATIVES.values(), ids=DERIVATIVES)
def test_first_and_second_derivatives_agree_with_finite_differences_in_both_modes(options, value_dim):
    with jax.enable_x64():
        options = dict(options)
        arrays = [normal(2, 6, 3, 2), normal(2, 2, 2, 2), normal(2, 2, 2, value_dim)]
        if "bias" in options:
            arrays.append(normal(*options.pop("bias")))
        arrays = [x.astype(jnp.float64) for x in arrays]
        for name in options.keys() & {"mask", "dropout_mask"}:
            options[name] = normal(*options[name]) > -0.3

        @jax.jit
        def function(*arrays):
            result = attend(*arrays, **options)
            # -inf minus -inf is no difference: an empty row's log-sum-exp is a constant.
            return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), result)

        check_grads(function, arrays, order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_with_few_keys_every_product_of_the_gradients_is_a_fast_one(monkeypatch):
    """`_turned` can go when the last of these fails: XLA:CPU runs what it leaves a bare `dot` by its slow routine."""
    query, key, value = (normal(64, 8, length, 64) for length in (5, 7, 7))

    def slow_products(implementation):
        def gradients(*arrays):  # a function of its own each time, or the first one's program is found again
            return jax.grad(lambda *arrays: jnp.sum(implementation(*arrays) ** 2), (0, 1, 2))(*arrays)

        return len(
            re.findall(r" dot\(", jax.jit(gradients).lower(query, key, value).compile().as_text().split("ENTRY")[1])
        )

    assert slow_products(attend) == 0
    monkeypatch.setattr(einsum, "_turned", einsum._attended)
    assert slow_products(attend) == 1


def test_only_what_is_differentiated_is_computed():
    query, key, value = (normal(2, 2, length, 16) for length in (5, 7, 7))
    for n, array in enumerate((query, key, value)):

        def of_one(x, n=n):
            arrays = [query, key, value]
            arrays[n] = x
            return attend(*arrays)

        close(
            jax.jvp(of_one, (array,), (array,))[1], jax.jacfwd(of_one)(array).reshape(2, 2, 5, 16, -1) @ array.ravel()
        )
        turned = "optimization_barrier" in str(jax.make_jaxpr(jax.grad(lambda x, f=of_one: jnp.sum(f(x))))(array))
        assert turned == (n == 2)
