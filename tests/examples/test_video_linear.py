"""The kernel's gradient is that of `nnx.Linear`, without the copy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from examples.video.flax_linear import Linear

BATCH, LENGTH, WIDTH, HEADS, HEAD_DIM = 3, 5, 7, 2, 11


def gradients(kind, dtype="float32", **options):
    """Of kernel, bias and input, where the output goes on as heads, and the program that computes them."""
    layer = kind(WIDTH, HEADS * HEAD_DIM, **options, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(layer)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((BATCH, LENGTH, WIDTH)), dtype)
    g = jnp.asarray(rng.standard_normal((BATCH, HEADS, LENGTH, HEAD_DIM)), dtype)

    def loss(weights, x):
        y = nnx.merge(graph, weights)(x)
        assert y.dtype == jnp.promote_types(dtype, options.get("param_dtype", y.dtype))
        return jnp.sum(rearrange(y, "b n (h d) -> b h n d", h=HEADS) * g)

    program = jax.jit(jax.grad(loss, (0, 1))).lower(weights, x).compile()
    return jax.tree.leaves(program(weights, x)), program.as_text()


@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"dtype": jnp.bfloat16}])
def test_gradients_are_those_of_nnx(options):
    ours, theirs = gradients(Linear, **options)[0], gradients(nnx.Linear, **options)[0]
    unit = float(jnp.finfo(options.get("dtype", jnp.float32)).eps)
    assert len(ours) == len(theirs) == (2 if options.get("use_bias") is False else 3)
    for one, two in zip(ours, theirs, strict=True):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        np.testing.assert_allclose(one, two, rtol=0, atol=4 * unit * float(jnp.abs(two).max()))


def test_float32_input_and_16_bit_weights_are_computed_in_float32():
    kernel, *_ = gradients(Linear, param_dtype=jnp.bfloat16, use_bias=False)[0]
    assert kernel.dtype == jnp.bfloat16


def test_the_cotangent_is_not_copied_a_second_time():
    """The file can go when the first of these fails."""
    copy = f"f32[{HEADS * HEAD_DIM},{BATCH * LENGTH}]"
    assert copy in gradients(nnx.Linear, use_bias=False)[1]
    assert copy not in gradients(Linear, use_bias=False)[1]
