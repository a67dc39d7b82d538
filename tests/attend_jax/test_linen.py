"""`Attend` for flax.linen: dropout the Linen way. That it is the nnx module is in test_module.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from attend_jax import attend
from attend_jax.linen import Attend

Q, K, V = (jnp.asarray(np.random.default_rng(n).standard_normal((2, 3, n, 11)), jnp.float32) for n in (5, 7, 7))
RNGS = {"dropout": jax.random.key(3)}


def test_there_are_no_variables():
    assert Attend(0.5).init(jax.random.key(0), Q, K, V, deterministic=True) == {}


def test_without_dropout_deterministic_need_not_be_said():
    np.testing.assert_array_equal(Attend(causal=True).apply({}, Q, K, V), attend(Q, K, V, causal=True))


@pytest.mark.parametrize("where", ["constructor", "call"])
def test_deterministic_is_said_in_the_constructor_or_the_call(where):
    def apply(deterministic):
        if where == "constructor":
            return Attend(0.5, deterministic=deterministic).apply({}, Q, K, V, rngs=RNGS)
        return Attend(0.5).apply({}, Q, K, V, deterministic=deterministic, rngs=RNGS)

    np.testing.assert_array_equal(apply(True), attend(Q, K, V))
    assert not jnp.allclose(apply(False), attend(Q, K, V))


def test_the_rng_decides_what_is_dropped():
    def apply(seed):
        return Attend(0.5, deterministic=False).apply({}, Q, K, V, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(apply(0), apply(0))
    assert not jnp.array_equal(apply(0), apply(1))


def test_the_key_is_the_one_that_make_rng_gives():
    class Peek(linen.Module):
        @linen.compact
        def __call__(self):
            return self.make_rng("dropout")

    key = Peek().apply({}, rngs=RNGS)
    expected = attend(Q, K, V, dropout_rate=0.5, dropout_rng=key)
    np.testing.assert_array_equal(Attend(0.5, deterministic=False).apply({}, Q, K, V, rngs=RNGS), expected)


def test_two_in_a_model_drop_different_weights():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, *arrays):
            return Attend(0.5, deterministic=False)(*arrays), Attend(0.5, deterministic=False)(*arrays)

    first, second = Model().apply({}, Q, K, V, rngs=RNGS)
    assert not jnp.array_equal(first, second)


def test_a_dropout_mask_needs_no_rng():
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, (2, 3, 5, 7))
    expected = attend(Q, K, V, dropout_rate=0.5, dropout_mask=keep)
    np.testing.assert_array_equal(Attend(0.5).apply({}, Q, K, V, dropout_mask=keep, deterministic=False), expected)


def test_training_without_an_rng_says_what_to_do():
    with pytest.raises(ValueError, match=r"a 'dropout' rng must be given to train with dropout=0.5.*rngs=\{'dropout'"):
        Attend(0.5).apply({}, Q, K, V, deterministic=False)
    # Linen would fall back to another stream, and draw the weights from the parameters' seed.
    with pytest.raises(ValueError, match="a 'dropout' rng must be given"):
        Attend(0.5).apply({}, Q, K, V, deterministic=False, rngs={"params": jax.random.key(0)})


def test_dropout_with_deterministic_unsaid_is_an_error():
    with pytest.raises(ValueError, match="deterministic"):
        Attend(0.5).apply({}, Q, K, V, rngs=RNGS)


def test_options_beyond_the_third_are_by_keyword_only():
    with pytest.raises(TypeError):
        Attend(0.0, False, True, 0.5)
