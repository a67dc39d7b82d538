"""Ports in another framework, as they are met: XLA's own sums, fusions and elementary functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.montecarlo.judging import expectation
from tests.parity.montecarlo.models import MODELS, Pieces, results


def layer_norm(x, w, b):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) - mean * mean + 1e-5) * w + b


def transformer(depth):
    def forward(p, x):
        for i in range(depth):
            q = {name.split(".")[1]: value for name, value in p.items() if name.startswith(f"{i}.")}
            h = layer_norm(x, q["scale1"], q["bias1"]) @ q["qkv"].T
            query, key, value = (y.reshape(*y.shape[:-1], 4, -1) for y in jnp.split(h, 3, -1))
            h = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
            x = x + (h @ q["out"].T + q["bout"])
            h = jax.nn.gelu(layer_norm(x, q["scale2"], q["bias2"]) @ q["up"].T + q["bup"], approximate=False)
            x = x + (h @ q["down"].T + q["bdown"])
        return x

    return forward


def conv_group(p, x):
    def conv(x, w, b):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME") + b[:, None, None]

    y = conv(x, p["w0"], p["b0"]).reshape(x.shape[0], 4, -1)
    y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    y = jax.nn.silu(y.reshape(x.shape) * p["scale"][:, None, None] + p["bias"][:, None, None])
    return x + conv(y, p["w1"], p["b1"])


def gru(p, x):
    def step(h, x):
        ir, iz, i_n = jnp.split(x @ p["w_ih"].T + p["b_ih"], 3, -1)
        hr, hz, hn = jnp.split(h @ p["w_hh"].T + p["b_hh"], 3, -1)
        r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
        h = (1 - z) * jnp.tanh(i_n + r * hn) + z * h
        return h, h

    return jax.lax.scan(step, jnp.zeros((x.shape[0], p["w_hh"].shape[1]), x.dtype), x.swapaxes(0, 1))[1].swapaxes(0, 1)


PORTS = {"transformer_1": transformer(1), "transformer_4": transformer(4), "conv_group": conv_group, "gru": gru}


@pytest.mark.parametrize("name", PORTS)
def test_an_honest_port_to_jax_is_accepted(name):
    port = jax.jit(lambda p, x, g: [(y := jax.vjp(PORTS[name], p, x))[0], y[1](g)])
    for seed in range(4):
        arrays, truth, bounds = expectation(name, seed, "float32")
        given = {key: jnp.asarray(array, jnp.float32) for key, array in arrays.items()}
        x = given.pop("x")
        choice = np.random.default_rng(0).choice([-1.5, -1, -0.5, 0.5, 1, 1.5], truth["output"].shape)
        output, (dp, dx) = port(given, x, jnp.asarray(choice, jnp.float32))
        actual = {"output": output, "dx": dx, **{"d" + key: value for key, value in dp.items()}}
        for key, allowed in bounds.items():
            assert (np.abs(np.asarray(actual[key], np.float64) - truth[key]) < 0.75 * allowed).all(), key


def test_the_cotangents_are_those_of_the_reference():
    """The one above would pass with others only if gradients did not matter."""
    arrays, truth, _ = expectation("gru", 0, "float32")
    again = results(MODELS["gru"], Pieces(), arrays, torch.float64)
    np.testing.assert_allclose(again["dx"].numpy(), truth["dx"])
