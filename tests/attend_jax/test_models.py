"""`Attend` in a Flax model: nnx's and Linen's transformations, mixed precision, bridges, checkpoints, safetensors."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.nnx import bridge

import attend_jax.linen
from attend_jax import Attend
from parity import weights
from tests.attend_jax import checkpoint
from tests.attend_jax.models import FEATURES, Block, LinenBlock
from tests.judge import jit

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, FEATURES)), jnp.float32)
LAYERS = 3
ROOT = Path(__file__).parent.parent.parent
close = functools.partial(jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5))


def loss(module, x=X):
    return jnp.sin(module(x)).sum()


def training(seed=0, **options):
    block = Block(dropout=0.5, rngs=nnx.Rngs(seed), **options)
    block.train()
    return block


def test_value_and_grad_under_jit_with_dropout():
    step = nnx.jit(nnx.value_and_grad(loss))
    modules = training(), training()
    (first, gradients), (second, _) = step(modules[0]), step(modules[0])
    assert first != second  # the stream went on
    assert [step(modules[1])[0] for _ in range(2)] == [first, second]
    kernel = nnx.to_pure_dict(gradients)["to_qkv"]["kernel"]
    assert np.abs(np.asarray(kernel).reshape(FEATURES, 3, -1)).max(axis=(0, 2)).min() > 1e-3  # of q, k and v


def stacked():
    @nnx.split_rngs(splits=LAYERS)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return Block(dropout=0.5, rngs=rngs)

    return make(nnx.Rngs(0))


@nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
def over_layers(layer, x):
    return nnx.remat(Block.__call__)(layer, x)


def test_a_scan_over_rematerialised_layers_made_by_vmap_is_a_loop_over_layers():
    scanned, layers = stacked(), stacked()
    graph, parameters, rest = nnx.split(layers, nnx.Param, ...)

    @nnx.jit
    def by_scan(scanned):
        def function(scanned):
            output = over_layers(scanned, X)
            return jnp.sin(output).sum(), output

        return nnx.grad(function, has_aux=True)(scanned)

    def by_loop(parameters):
        output = X
        for n in range(LAYERS):
            layer = nnx.merge(graph, *(jax.tree.map(lambda leaf: leaf[n], state) for state in (parameters, rest)))  # noqa: B023
            output = layer(output)
        return jnp.sin(output).sum(), output

    (gradients, output), (expected, expected_output) = (
        by_scan(scanned),
        jit(jax.grad(by_loop, has_aux=True))(parameters),
    )
    close(nnx.to_pure_dict(gradients), nnx.to_pure_dict(expected))
    close(output, expected_output)


def test_layers_of_a_scan_drop_different_weights():
    class Alone(nnx.Module):
        def __init__(self, rngs):
            self.attend = Attend(0.5, rngs=rngs)

    @nnx.split_rngs(splits=LAYERS)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return Alone(rngs)

    eye = jnp.eye(8)[None, None]

    @nnx.scan(in_axes=(0, None), out_axes=0)
    def weights_of(layer, eye):
        return layer.attend(jnp.zeros_like(eye), jnp.zeros_like(eye), eye)

    patterns = {np.asarray(layer).tobytes() for layer in weights_of(make(nnx.Rngs(0)), eye)}
    assert len(patterns) == LAYERS


def test_mixed_precision():
    exact = Block(rngs=nnx.Rngs(0))
    mixed = Block(dtype=jnp.bfloat16, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert mixed(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    gradients = [nnx.to_pure_dict(nnx.jit(nnx.grad(loss))(module)) for module in (mixed, exact)]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients[0])} == {jnp.dtype("float32")}
    found, expected = (np.concatenate([np.ravel(x).astype("f8") for x in jax.tree.leaves(g)]) for g in gradients)
    assert np.linalg.norm(found - expected) < 2**-6 * np.linalg.norm(expected)


def test_linen_transformations():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            layer = linen.remat(LinenBlock, static_argnums=(2,))
            scan = linen.scan(
                lambda block, x, _: (block(x, False), None),
                variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=LAYERS,
            )  # fmt: skip
            return scan(layer(0.5, name="layers"), x, None)[0]

    model, rngs = Model(), {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, X)
    assert variables["params"]["layers"]["to_qkv"]["kernel"].shape == (LAYERS, FEATURES, 3 * FEATURES)
    step = jax.jit(jax.grad(lambda variables, key: jnp.sin(model.apply(variables, X, rngs={"dropout": key})).sum()))
    first, again, other = (step(variables, jax.random.key(seed)) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any((one != two).any() for one, two in zip(*map(jax.tree.leaves, (first, other)), strict=True))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))


def test_the_linen_block_is_the_nnx_block():
    block = Block(rngs=nnx.Rngs(0))
    parameters = nnx.to_pure_dict(nnx.state(block, nnx.Param))
    np.testing.assert_allclose(LinenBlock().apply({"params": parameters}, X), block(X), rtol=1e-5, atol=1e-6)


def test_an_nnx_model_in_linen():
    model = bridge.to_linen(Block, dropout=0.5)
    variables = model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    first, again, other = (model.apply(variables, X, rngs={"dropout": jax.random.key(n)}) for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_linen_module_in_nnx():
    block = bridge.ToNNX(LinenBlock(), rngs=nnx.Rngs(0)).lazy_init(X)
    parameters = nnx.to_pure_dict(nnx.state(block, nnx.Param))
    np.testing.assert_allclose(block(X), LinenBlock().apply({"params": parameters}, X), rtol=1e-5, atol=1e-6)
    gradients = nnx.jit(nnx.grad(loss))(block)
    assert jax.tree.leaves(gradients)
    alone = bridge.ToNNX(attend_jax.linen.Attend(causal=True), rngs=nnx.Rngs(0))
    query = X[:, None]
    np.testing.assert_array_equal(alone(query, query, query), Attend(causal=True)(query, query, query))


def test_weights_go_out_and_in_as_safetensors(tmp_path):
    block, other = Block(rngs=nnx.Rngs(0)), Block(rngs=nnx.Rngs(1))
    flat = {".".join(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(block, nnx.Param))}
    weights.write(tmp_path / "block.safetensors", flat)
    read = {tuple(name.split(".")): array for name, array in weights.read(tmp_path / "block.safetensors").items()}
    state = nnx.state(other, nnx.Param)
    nnx.replace_by_pure_dict(state, nnx.traversals.unflatten_mapping(read))
    nnx.update(other, state)
    np.testing.assert_array_equal(other(X), block(X))


@pytest.mark.many_devices
def test_a_checkpoint_of_eight_devices_restores_on_another_number(tmp_path):
    x = np.concatenate([X, -X])
    expected = checkpoint.save(tmp_path / "checkpoint", x)
    np.testing.assert_allclose(expected, Block(rngs=nnx.Rngs(0))(x), rtol=1e-5, atol=1e-6)
    for devices in (4, 1):
        found = checkpoint.restored(tmp_path / "checkpoint", x, devices)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "expected.npy", expected)
    answer = subprocess.run(
        [sys.executable, checkpoint.__file__, str(tmp_path), "2"], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert answer.stdout == "restored on 2 devices\n", answer.stderr
