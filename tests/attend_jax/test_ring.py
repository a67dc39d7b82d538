"""Ring attention on CPU devices: exact in every rule, balanced, in memory linear in a device's part."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attend_jax import attend
from attend_jax.problem import Problem
from attend_jax.ring import Ring
from tests.judge import gives_the_truth

pytestmark = pytest.mark.many_devices
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


def mesh(devices, types=AUTO):
    """Some devices in a ring; the rest, where there is a second axis, for batch or heads."""
    sizes = (devices, 2 if devices <= 4 else 1)
    return jax.set_mesh(jax.make_mesh(sizes, ("seq", "other"), axis_types=(types, types)))


RING = PartitionSpec(None, None, "seq")
CASES = [
    (1, "S1,i=7,j=5", RING),
    (2, "S1,i=6,j=10,d=5,e=7", RING),
    (3, "S3,i=18,j=18,causal=1,bias=hij", RING),
    (4, "S3,i=40,j=40,causal=1,bias=b1ij,kv=2,lse=1", RING),
    (4, "S3,i=36,j=36,causal=1,bias=bhi1", RING),  # parts of 9: no two chunks, so no balance
    (4, "S4,i=24,j=12,causal=1,bias=hij,lse=1", RING),
    (2, "S3,i=12,j=24,causal=1,bias=b11j", RING),
    (2, "S8,i=12,j=24,causal=upper_left", RING),
    (4, "S8,i=24,j=12,causal=upper_left,bias=j,lse=1", RING),
    (4, "S12,i=16,j=24,mask=bhij,values=empty-row,lse=1,bias=ij", RING),
    (4, "S12,i=24,j=24,causal=1,mask=b1ij,values=empty-row,lse=1", RING),
    (4, "S12,i=24,j=24,causal=1,mask=j,bias=111j", RING),
    (2, "S16,i=12,j=12,causal=1,dropout=0.3,bias=hij", RING),
    (2, "S16,i=12,j=12,causal=1,dropout=0.3,mask=bhij,values=empty-row", RING),
    (4, "S14,i=24,j=24,causal=1,kv=1,layout=bnhd,bias=hij", PartitionSpec(None, "seq")),
    (4, "S13,i=16,j=16,causal=1,kv=2,bias=hij,dtype=bfloat16,bias_dtype=float32", RING),
    (2, "S1,i=12,j=12,causal=1,dtype=float16,scale=0.7", RING),
    (8, "S3,b=1,i=32,j=32,causal=1,bias=hij", RING),
    (2, "S3,b=2,h=4,kv=2,i=16,j=16,causal=1,bias=hij", PartitionSpec("other", None, "seq")),
    (2, "S3,b=2,h=4,kv=2,i=16,j=16,causal=1,bias=b1ij,lse=1,dropout=0.3", PartitionSpec(None, "other", "seq")),
    (2, "S3,b=4,h=2,i=16,j=16,causal=1,bias=bhij,kv=1", PartitionSpec(None, "other", "seq")),
    (4, "S3,b=4,i=16,j=16,causal=1,mask=b1ij,bias=hij", PartitionSpec(None, None, ("seq", "other"))),
]


@pytest.mark.parametrize(("devices", "name", "sharding"), CASES, ids=[f"{row[0]},{row[1]}" for row in CASES])
def test_a_ring_gives_the_truth(devices, name, sharding):
    with mesh(devices):
        gives_the_truth(name, sharding=sharding)


@pytest.mark.parametrize("types", [AUTO, EXPLICIT])
def test_what_is_dropped_does_not_depend_on_the_devices(types):
    # An identity as value and equal scores: the output is the matrix of dropped weights.
    query = jnp.zeros((2, 4, 16, 8))
    value = jnp.tile(jnp.eye(16), (2, 4, 1, 1))
    options = {"dropout_rate": 0.3, "dropout_rng": jax.random.key(3)}
    whole = attend(query, query, value, **options)
    for spec in (PartitionSpec("other", None, "seq"), PartitionSpec("other", "seq"), PartitionSpec(None, None, "seq")):
        with mesh(4, types):
            parts = [jax.device_put(x, spec) for x in (query, query, value)]
            cut = jax.jit(functools.partial(attend, sharding=spec, **options))(*parts)
            np.testing.assert_array_equal(np.asarray(cut) != 0, np.asarray(whole) != 0)


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def loss(query, key, value, bias, **options):
    output, logsumexp = attend(query, key, value, bias, return_logsumexp=True, **options)
    return jnp.sin(output).sum() + jnp.cos(logsumexp).sum()


INPUTS = (random(2, 4, 16, 8), random(2, 4, 16, 8, seed=1), random(2, 4, 16, 8, seed=2), random(4, 16, 16, seed=3))


def close(actual, expected, **tolerance):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), **({"rtol": 1e-5, "atol": 1e-5} | tolerance))


GRADIENTS = jax.grad(functools.partial(loss, causal=True, implementation="einsum"), argnums=(0, 1, 2, 3))


@pytest.mark.parametrize(
    "spec", [("other", None, "seq"), (None, "other", "seq"), ("other", "seq"), (None, None, "seq")]
)
def test_explicit_types_need_no_argument(spec):
    with mesh(4, EXPLICIT):
        parts = [jax.device_put(x, PartitionSpec(*spec)) for x in INPUTS[:3]]
        actual = jax.jit(jax.grad(functools.partial(loss, causal=True), argnums=(0, 1, 2, 3)))(*parts, INPUTS[3])
        assert jax.typeof(actual[0]).sharding.spec[: len(spec)] == spec
    close(actual, GRADIENTS(*INPUTS))


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("spec", [("other", None, "seq"), ("other", None, None), (None, "other", "seq")])
def test_inside_shard_map_the_arrays_are_one_devices_part(spec, check_vma):
    features, biased = PartitionSpec(*spec), PartitionSpec(spec[1], spec[2])

    def device(*parts):
        value = loss(*parts, causal=True, sharding=features)
        return jax.lax.psum(value, [name for name in spec if name])

    with mesh(4):
        cut = jax.shard_map(
            device, in_specs=(features, features, features, biased), out_specs=PartitionSpec(), check_vma=check_vma,
            axis_names={name for name in spec if name},
        )  # fmt: skip
        actual = jax.jit(jax.grad(cut, argnums=(0, 1, 2, 3)))(*INPUTS)
    close(actual, GRADIENTS(*INPUTS))


def test_second_derivatives_go_round_as_well():
    def product(**options):
        first = jax.grad(functools.partial(loss, causal=True, **options), argnums=(0, 1, 2, 3))
        return jax.jit(lambda *arrays: jax.jvp(first, arrays, arrays)[1])(*INPUTS)

    expected = product(implementation="einsum")
    with mesh(4):
        close(product(sharding=RING), expected, rtol=1e-4, atol=1e-4)


def test_forward_mode_is_an_error_that_names_einsum():
    with mesh(4), pytest.raises(TypeError, match="implementation='einsum' has"):
        jax.jvp(lambda x: attend(x, x, x, sharding=RING), INPUTS[:1], INPUTS[:1])


def compiled(devices, length, **options):
    shape = jax.ShapeDtypeStruct((1, 2, length, 16), jnp.float32)
    with mesh(devices):
        sharded = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(jax.sharding.get_mesh(), RING))

        def step(query, key, value, cotangent):
            output, vjp = jax.vjp(functools.partial(attend, sharding=RING, **options), query, key, value)
            return output, vjp(cotangent)

        return jax.jit(step).lower(*[sharded] * 4).compile()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_goes_by_the_length_of_a_part(causal):
    def temporaries(devices, length):
        return compiled(devices, length, causal=causal).memory_analysis().temp_size_in_bytes

    assert temporaries(8, 4096) < 1.1 * temporaries(4, 2048)
    assert temporaries(8, 4096) < 0.6 * temporaries(2, 4096)


def test_a_causal_ring_sends_parts_and_gathers_nothing():
    text = compiled(4, 64, causal=True).as_text()
    assert "collective-permute" in text
    assert not re.search(r"all-gather|all-to-all|all-reduce|reduce-scatter", text)


@pytest.mark.parametrize("devices", [2, 3, 4, 8])
def test_under_a_causal_corner_every_device_has_the_same_to_do_and_no_pair_is_missed(devices, monkeypatch):
    problem = Problem(1, 1, 1, 4, 4, 8, 8, jnp.dtype("float32"), causal="lower_right")
    ring = Ring(problem, ("seq",), devices)
    pairs = []
    for me in range(devices):
        monkeypatch.setattr(Ring, "me", lambda self, me=me: me)
        mine = []
        for step in range(devices):
            owner = (me - step) % devices
            for rows, columns, diagonal in ring.pairs(None if step == 0 else owner):
                pair = int(ring.chunk(me, rows)), int(ring.chunk(owner, columns))
                assert diagonal == (pair[0] == pair[1])
                mine.append(pair)
        assert len(mine) == 2 * devices + 1
        pairs += mine
    expected = [(row, column) for row in range(2 * devices) for column in range(row + 1)]
    assert sorted(pairs) == expected
