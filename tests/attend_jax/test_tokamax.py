"""tokamax, which is not installed here: what is refused, and what its function is handed."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from attend_jax import dispatch
from attend_jax.implementations import tokamax
from attend_jax.problem import Operands, Problem

PROBLEM = Problem(2, 4, 2, 128, 256, 64, 64, jnp.dtype("bfloat16"), scale=0.125)
REFUSALS = [
    ({"dtype": jnp.dtype("float16")}, "bfloat16 only"),
    ({"q_len": 130}, "no multiples of 128; got 130 and 256"),
    ({"bias_shape": (2, 4, 1, 256)}, "broadcasts over a length"),
    ({"value_dim": 32}, "equal head sizes"),
    ({"mask_shape": (1, 1, 1, 256)}, "S4"),
    ({"causal": "lower_right"}, "no lower-right corner"),
    ({"dropout": "rng"}, "no dropout"),
    ({"return_logsumexp": True}, "log-sum-exp"),
    ({"batch": 0}, "no empty arrays"),
    ({"batch": jax.export.symbolic_shape("b")[0]}, "no symbolic sizes"),
]


@pytest.mark.parametrize(("edits", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_what_it_cannot_do_exactly_is_refused_in_words(edits, words, monkeypatch):
    monkeypatch.setattr(tokamax, "_unavailable", lambda: None)
    assert tokamax.refusal(PROBLEM) is None
    assert words in str(tokamax.refusal(dataclasses.replace(PROBLEM, **edits)))


def test_where_it_is_not_installed_the_refusal_says_how_to_install_it():
    assert "pip install 'attend-jax[tokamax]'" in str(tokamax.refusal(PROBLEM))


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
def test_its_function_gets_bnhd_the_bias_and_the_scale_and_the_answer_comes_back_in_the_layout(layout, monkeypatch):
    def function(query, key, value, bias, *, scale, is_causal, implementation):
        assert (scale, is_causal, implementation) == (0.125, False, "mosaic")
        return jax.nn.dot_product_attention(query, key, value, bias, scale=scale)

    monkeypatch.setattr(tokamax, "_tokamax", lambda: types.SimpleNamespace(dot_product_attention=function))
    problem = dataclasses.replace(PROBLEM, layout=layout, bias_shape=(1, 4, 128, 256))

    def features(seed, heads, length):
        shape = (2, heads, length, 64) if layout == "bhnd" else (2, length, heads, 64)
        return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)

    bias = jax.random.normal(jax.random.key(3), (1, 4, 128, 256), jnp.bfloat16)
    operands = Operands(features(0, 4, 128), features(1, 2, 256), features(2, 2, 256), bias)
    actual = tokamax.run(problem, operands).output.astype(jnp.float32)
    expected = dispatch.run(dispatch.on(problem, "cpu"), operands, "einsum").output.astype(jnp.float32)
    assert actual.shape == problem.output_shape
    assert jnp.abs(actual - expected).max() < 0.02
