"""`Attend` for flax.nnx: options, dropout the nnx way, and that it is the function and the Linen module."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import attend_jax
import attend_jax.linen
from attend_jax import Attend, attend
from attend_jax.dispatch import NAMES

BATCH, HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 2, 3, 5, 7, 11, 13


def normal(*shape):
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


Q, K, V = (
    normal(BATCH, HEADS, Q_LEN, HEAD_DIM),
    normal(BATCH, HEADS, KV_LEN, HEAD_DIM),
    normal(BATCH, HEADS, KV_LEN, VALUE_DIM),
)
BIAS, MASK = normal(HEADS, Q_LEN, KV_LEN), normal(BATCH, 1, 1, KV_LEN) > -1
equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)

OPTIONS = [
    {},
    {"causal": True},
    {"flash": True},
    {"flash": True, "causal": True},
    {"flash": True, "causal": "lower_right"},
    {"causal": "upper_left"},
    {"scale": 0.3},
    {"layout": "bnhd"},
    {"implementation": "einsum", "precision": "highest"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("extras", [{}, {"bias": BIAS, "mask": MASK, "return_logsumexp": True}], ids=["", "extras"])
def test_nnx_linen_and_the_function_are_one(options, extras):
    arrays = (Q, K, V) if options.get("layout") != "bnhd" else tuple(x.swapaxes(1, 2) for x in (Q, K, V))
    how = {name: value for name, value in options.items() if name != "flash"}
    if options.get("flash") and options.get("causal") is True:
        how["causal"] = "upper_left"
    expected = attend(*arrays, **how, **extras)
    equal(Attend(**options)(*arrays, **extras), expected)
    equal(attend_jax.linen.Attend(**options).apply({}, *arrays, **extras), expected)


def test_bias_is_the_fourth_argument():
    equal(Attend()(Q, K, V, BIAS), attend(Q, K, V, BIAS))


def test_train_switches_dropout_on_and_eval_off():
    module = Attend(0.5, rngs=nnx.Rngs(0))
    assert not jnp.allclose(module(Q, K, V), attend(Q, K, V))
    module.eval()
    equal(module(Q, K, V), attend(Q, K, V))
    module.train()
    assert not jnp.allclose(module(Q, K, V), attend(Q, K, V))


def test_the_call_decides_over_train_and_eval():
    module = Attend(0.5, rngs=nnx.Rngs(0))
    equal(module(Q, K, V, deterministic=True), attend(Q, K, V))
    module.eval()
    assert not jnp.allclose(module(Q, K, V, deterministic=False), attend(Q, K, V))


def test_every_call_drops_other_weights_and_the_seed_decides_which():
    first, again, other = (Attend(0.5, rngs=nnx.Rngs(dropout=seed)) for seed in (0, 0, 1))
    calls = [first(Q, K, V) for _ in range(3)]
    assert len({np.asarray(x).tobytes() for x in calls}) == 3
    equal([again(Q, K, V) for _ in range(3)], calls)
    assert not jnp.array_equal(other(Q, K, V), calls[0])


def test_under_jit_the_stream_goes_on():
    eager, compiled = (Attend(0.5, rngs=nnx.Rngs(0)) for _ in range(2))
    call = nnx.jit(lambda module, *arrays: module(*arrays))
    for _ in range(2):
        np.testing.assert_allclose(call(compiled, Q, K, V), eager(Q, K, V), atol=1e-6)


def test_modules_that_share_rngs_drop_different_weights():
    rngs = nnx.Rngs(0)
    assert not jnp.array_equal(Attend(0.5, rngs=rngs)(Q, K, V), Attend(0.5, rngs=rngs)(Q, K, V))


def test_a_model_switches_its_attention_with_itself():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.attend = Attend(0.5, rngs=rngs)

    model = Model(nnx.Rngs(0))
    model.eval()
    equal(model.attend(Q, K, V), attend(Q, K, V))


def test_nnx_view_switches_it_in_a_copy_with_the_rest_of_a_model():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.attend, self.dropout = Attend(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    model = Model(nnx.Rngs(0))
    quiet = nnx.view(model, deterministic=True)
    equal(quiet.attend(Q, K, V), attend(Q, K, V))
    assert not jnp.allclose(model.attend(Q, K, V), attend(Q, K, V))
    assert not jnp.allclose(nnx.view(quiet, deterministic=False).attend(Q, K, V), attend(Q, K, V))


@pytest.mark.parametrize("given", ["key", "stream", "rngs"])
def test_the_rngs_of_the_call_take_precedence(given):
    module = Attend(0.5, rngs=nnx.Rngs(0))
    stream = nnx.Rngs(dropout=7).dropout
    key = nnx.Rngs(dropout=7).dropout()
    rngs = {"key": key, "stream": stream, "rngs": nnx.Rngs(dropout=7)}[given]
    equal(module(Q, K, V, rngs=rngs), attend(Q, K, V, dropout_rate=0.5, dropout_rng=key))


def test_a_dropout_mask_needs_no_rngs():
    keep = normal(BATCH, HEADS, Q_LEN, KV_LEN) > 0
    expected = attend(Q, K, V, dropout_rate=0.5, dropout_mask=keep)
    equal(Attend(0.5)(Q, K, V, dropout_mask=keep), expected)


def test_training_without_rngs_says_what_to_do():
    module = Attend(0.5)
    with pytest.raises(
        ValueError, match=r"`rngs` must be given to train with dropout=0.5; got None.*nnx.Rngs.*\.eval\(\)"
    ):
        module(Q, K, V)
    module.eval()
    equal(module(Q, K, V), attend(Q, K, V))


def test_without_dropout_no_stream_is_kept_or_used():
    rngs = nnx.Rngs(0)
    module = Attend(0.0, rngs=rngs)
    assert jax.tree.leaves(nnx.state(module)) == []
    equal(module(Q, K, V), attend(Q, K, V))


def test_gradients_pass_through_the_module():
    module = Attend(causal=True)
    gradient = nnx.grad(lambda q, module: jnp.sin(module(q, K, V)).sum())(Q, module)
    np.testing.assert_allclose(gradient, jax.grad(lambda q: jnp.sin(attend(q, K, V, causal=True)).sum())(Q), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": 1.5}, "`dropout_rate` must lie between 0 and 1; got 1.5"),
        (
            {"causal": "upper_right"},
            "`causal` must be one of False, True, 'lower_right', 'upper_left'; got 'upper_right'",
        ),
        ({"layout": "bhdn"}, "`layout` must be one of 'bhnd', 'bnhd'; got 'bhdn'"),
        ({"implementation": "flash"}, f"`implementation` must be one of {', '.join(map(repr, NAMES))}; got 'flash'"),
        ({"precision": "very"}, "`precision` must be None or what jax.lax.dot_general takes"),
        ({"scale": float("inf")}, "`scale` must be finite; got inf"),
    ],
    ids=str,
)
def test_bad_options_are_refused_when_the_module_is_built(options, words):
    for build in (Attend, attend_jax.linen.Attend):
        with pytest.raises(ValueError, match=words):
            build(**options)
