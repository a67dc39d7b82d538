"""A call whose arrays are cut along a mesh: what needs communication, what is an error, and what each form says."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import attend_jax
import attend_jax.linen
from attend_jax import attend, private

pytestmark = pytest.mark.many_devices
COLLECTIVES = r"all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute"


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float32)


QUERY, KEY, VALUE = normal(4, 8, 24, 16), normal(4, 4, 24, 16, seed=1), normal(4, 4, 24, 16, seed=2)
BOTH = PartitionSpec("data", "model")


def step(query, key, value, bias, **options):
    output, vjp = jax.vjp(functools.partial(attend, causal=True, **options), query, key, value, bias)
    return output, vjp(jnp.cos(output))


@pytest.mark.parametrize("implementation", ["auto", "einsum", "blockwise"])
@pytest.mark.parametrize("by", ["the argument", "the compiler"])
def test_batches_and_heads_need_no_communication(mesh, implementation, by):
    options = {"implementation": implementation, "dropout_rate": 0.2, "dropout_rng": jax.random.key(0)}
    arrays = (QUERY, KEY, VALUE, normal(4, 8, 24, 24, seed=3))  # each device has its own part of the bias, too
    expected = jax.jit(functools.partial(step, **options))(*arrays)
    if by == "the argument":
        options["sharding"] = BOTH
    parts = [jax.device_put(array, NamedSharding(mesh, BOTH)) for array in arrays]
    program = jax.jit(functools.partial(step, **options)).lower(*parts).compile()
    assert not re.search(COLLECTIVES, program.as_text())
    for one, other in zip(jax.tree.leaves(program(*parts)), jax.tree.leaves(expected), strict=True):
        assert tuple(one.sharding.spec)[:2] == ("data", "model")
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("mesh")
def test_one_key_head_is_held_by_every_device():
    key = KEY[:, :1]
    expected = attend(QUERY, key, key)
    np.testing.assert_allclose(attend(QUERY, key, key, sharding=BOTH), expected, rtol=1e-5, atol=1e-6)


def test_a_named_sharding_brings_its_mesh():
    mesh = jax.make_mesh((4, 2), ("seq", "rest"), axis_types=(AxisType.Auto,) * 2)
    expected = attend(QUERY, KEY, VALUE, causal=True)
    sharding = NamedSharding(mesh, PartitionSpec("rest", None, "seq"))
    output = jax.jit(functools.partial(attend, causal=True, sharding=sharding))(QUERY, KEY, VALUE)
    assert tuple(output.sharding.spec)[:3] == ("rest", None, "seq")
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("mesh")
def test_modules_pass_it_on():
    spec = PartitionSpec("data", None, "model")
    expected = attend(QUERY, KEY, VALUE, causal=True)
    for output in (
        attend_jax.Attend(causal=True, sharding=spec)(QUERY, KEY, VALUE),
        attend_jax.linen.Attend(causal=True, sharding=spec).apply({}, QUERY, KEY, VALUE),
        nnx.jit(lambda module, *arrays: module(*arrays))(
            attend_jax.Attend(causal=True, sharding=spec), QUERY, KEY, VALUE
        ),
    ):
        assert tuple(output.sharding.spec)[:3] == ("data", None, "model")
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("mesh")
def test_explain_tells_what_one_device_does():
    explain = functools.partial(attend_jax.explain, QUERY, KEY, VALUE)
    assert explain(sharding=BOTH).implementation == "einsum"
    ring = explain(sharding=PartitionSpec(None, None, "model"))
    assert ring.implementation == "blockwise"
    assert ring.reason == "in a ring along the mesh axis 'model' of 4"
    assert ring.others["einsum"] == "does not go round a ring"


LENGTH = PartitionSpec(None, None, "model")
ERRORS = [
    ({"sharding": "model"}, TypeError, "`sharding` must be the jax.sharding.NamedSharding of query, or its"),
    ({"sharding": PartitionSpec(None, None, "sequence")}, ValueError,
     "`sharding` names the mesh axis 'sequence', which does not exist; the mesh has 'data', 'model'."),
    ({"sharding": PartitionSpec(None, None, None, "model")}, ValueError, "must leave the last axis whole"),
    ({"sharding": PartitionSpec(None, None, None, None, "model")}, ValueError, "query's 4 axes at most"),
    ({"sharding": LENGTH, "implementation": "einsum"}, attend_jax.ImplementationRefused,
     "implementation='einsum' cannot do this: the length is cut along the mesh axis 'model' of 4"),
    ({"sharding": LENGTH, "layout": "bhnd", "rows": 22}, ValueError,
     "the mesh axis 'model' of 4 must divide query's length; got 22, which 4 devices cannot share equally."),
    ({"sharding": LENGTH, "columns": 22}, ValueError, "must divide key's length; got 22"),
    ({"sharding": PartitionSpec(("data", "model"))}, ValueError,
     "the mesh axis 'data' x 'model' of 8 must divide batch; got 4"),
    ({"sharding": PartitionSpec(None, ("model", "data"))}, ValueError, "must divide key's heads; got 4"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "words"), ERRORS, ids=[words[:40] for *_, words in ERRORS])
@pytest.mark.usefixtures("mesh")
def test_what_cannot_be_cut_is_an_error_before_compute(options, kind, words):
    options = dict(options)
    rows, columns = options.pop("rows", 24), options.pop("columns", 24)
    for function in (attend, attend_jax.explain):
        with pytest.raises(kind, match=re.escape(words)):
            function(QUERY[:, :, :rows], KEY[:, :, :columns], VALUE[:, :, :columns], **options)


def test_without_a_mesh_it_is_an_error_that_says_where_to_get_one():
    with pytest.raises(ValueError, match=r"needs a mesh and there is none; .* `with jax\.set_mesh\(mesh\):`"):
        attend(QUERY, KEY, VALUE, sharding=LENGTH)


@pytest.mark.usefixtures("mesh")
def test_axes_of_shard_map_and_others_do_not_mix():
    function = jax.shard_map(
        functools.partial(attend, sharding=PartitionSpec("data", "model")),
        in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), axis_names={"data"},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"of which data belongs to jax\.shard_map"):
        jax.jit(function)(QUERY, KEY, VALUE)


@pytest.mark.usefixtures("mesh")
def test_inside_shard_map_a_bias_has_the_columns_of_the_whole():
    features = PartitionSpec(None, None, "model")
    function = jax.shard_map(
        functools.partial(attend, sharding=features), in_specs=(features,) * 4, out_specs=features, axis_names={"model"}
    )
    with pytest.raises(ValueError, match=r"\(batch, heads, q_len, kv_len\) = \(4, 8, 6, 24\)"):
        jax.jit(function)(QUERY, KEY, VALUE, normal(1, 8, 24, 6))


@pytest.mark.usefixtures("mesh")
def test_the_axes_that_an_array_varies_over_are_still_to_be_had():
    seen = []

    def look(array):
        seen.append(private.varying(array))
        return array

    jax.jit(jax.shard_map(look, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")))(QUERY)
    assert seen == [{"data"}], "JAX changed where this is: adapt attend_jax.private.varying"


def test_two_processes_under_jax_distributed_give_what_one_gives(tmp_path):
    script = Path(__file__).parent / "two_processes.py"
    runs = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(number)], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
        for number in range(2)
    ]  # fmt: skip
    said = [run.communicate(timeout=180)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(said)
    assert all("as one device: output dquery dkey dvalue dbias dropped" in words for words in said), said
