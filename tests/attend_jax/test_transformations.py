"""JAX's transformations: none of them changes what is computed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attend_jax import attend

EXAMPLES, BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, VALUE_DIM = 3, 2, 4, 2, 5, 7, 11, 13
NAMES = ("query", "key", "value", "bias")
SHAPES = {
    "query": (BATCH, HEADS, Q_LEN, HEAD_DIM),
    "key": (BATCH, KV_HEADS, KV_LEN, HEAD_DIM),
    "value": (BATCH, KV_HEADS, KV_LEN, VALUE_DIM),
    "bias": (HEADS, Q_LEN, KV_LEN),
}
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def arrays(*examples):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.standard_normal((*examples, *SHAPES[name])), jnp.float32) for name in NAMES}


def loss(inputs, **options):
    return jnp.sin(attend(**inputs, causal=True, **options)).sum()


def test_jit_changes_nothing():
    inputs = arrays()
    plain = jax.value_and_grad(loss)(inputs)
    jax.tree.map(close, jax.jit(jax.value_and_grad(loss))(inputs), plain)


def test_vmap_over_examples_is_a_larger_batch():
    inputs = arrays(EXAMPLES)
    mapped = jax.vmap(lambda *x: attend(*x, causal=True))(inputs["query"], inputs["key"], inputs["value"])
    flat = (inputs[name].reshape(-1, *SHAPES[name][1:]) for name in ("query", "key", "value"))
    close(mapped.reshape(-1, HEADS, Q_LEN, VALUE_DIM), attend(*flat, causal=True))


SHARED = [(), ("key", "value"), ("bias",), ("query", "key", "value"), ("query", "bias")]


@pytest.mark.parametrize("shared", SHARED, ids="-".join)
def test_vmap_of_the_gradient_is_the_gradient_of_each_example(shared):
    inputs = arrays(EXAMPLES)
    inputs = {name: x[0] if name in shared else x for name, x in inputs.items()}
    axes = {name: None if name in shared else 0 for name in NAMES}
    mapped = jax.jit(jax.vmap(jax.grad(loss), in_axes=(axes,)))(inputs)
    one = jax.jit(jax.grad(loss))
    for example in range(EXAMPLES):
        expected = one({name: x if name in shared else x[example] for name, x in inputs.items()})
        jax.tree.map(close, {name: x[example] for name, x in mapped.items()}, expected)


def test_vmap_over_masks_keys_of_dropout_and_scales():
    inputs = arrays()
    masks = np.random.default_rng(0).random((EXAMPLES, BATCH, 1, 1, KV_LEN)) < 0.7
    scales, rngs = jnp.array([0.1, 0.5, 2.0]), jax.random.split(jax.random.key(0), EXAMPLES)

    @jax.jit
    def one(mask, scale, rng):
        return attend(**inputs, mask=mask, scale=scale, dropout_rate=0.5, dropout_rng=rng)

    mapped = jax.vmap(one)(masks, scales, rngs)
    for example in range(EXAMPLES):
        close(mapped[example], one(masks[example], scales[example], rngs[example]))


def test_forward_and_reverse_mode_agree():
    inputs, tangents = arrays(), jax.tree.map(jnp.cos, arrays())
    _, forward = jax.jvp(loss, (inputs,), (tangents,))
    gradient = jax.grad(loss)(inputs)
    reverse = sum(jnp.vdot(gradient[name], tangents[name]) for name in NAMES)
    close(forward, reverse)


def test_the_hessian_is_symmetric_and_the_same_in_all_orders_of_modes():
    query, key, value = (arrays()[name][:1, :2, :3, :2] for name in ("query", "key", "value"))

    def of_query(query):
        return jnp.sin(attend(query, key, value, causal=True)).sum()

    hessian = jax.jit(jax.hessian(of_query))(query)
    size = query.size
    matrix = np.asarray(hessian).reshape(size, size)
    assert np.abs(matrix).max() > 1e-3
    close(matrix, matrix.T)
    close(jax.jit(jax.jacrev(jax.jacrev(of_query)))(query), hessian)


def test_rematerialisation_changes_nothing():
    inputs, options = arrays(), {"dropout_rate": 0.5, "dropout_rng": jax.random.key(0)}
    function = functools.partial(loss, **options)
    jax.tree.map(close, jax.jit(jax.grad(jax.checkpoint(function)))(inputs), jax.jit(jax.grad(function))(inputs))


def test_scan_is_a_loop():
    inputs = arrays(EXAMPLES)

    def step(total, inputs):
        output = attend(**inputs, causal=True)
        return total + output.sum(), output

    total, outputs = jax.lax.scan(step, jnp.zeros(()), inputs)
    expected = [attend(**jax.tree.map(lambda x, n=n: x[n], inputs), causal=True) for n in range(EXAMPLES)]
    close(outputs, expected)
    close(total, np.sum(expected), rtol=1e-4)


def test_a_traced_scale_is_the_same_as_a_static_one_and_has_a_gradient():
    inputs = arrays()
    traced = jax.jit(lambda scale: loss(inputs, scale=scale))
    close(traced(0.3), loss(inputs, scale=0.3))
    difference = (loss(inputs, scale=0.3 + 1e-2) - loss(inputs, scale=0.3 - 1e-2)) / 2e-2
    close(jax.grad(traced)(0.3), difference, rtol=1e-2)


def test_a_second_call_with_the_same_shapes_is_not_traced_again():
    traces = []

    @jax.jit
    def function(inputs):
        traces.append(1)
        return attend(**inputs, scale=0.5)

    function(arrays())
    function(jax.tree.map(jnp.cos, arrays()))
    assert len(traces) == 1
