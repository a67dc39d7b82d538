"""Blockwise: exact whatever the blocks, in memory linear in the length, and differentiable as plain JAX is."""

from __future__ import annotations

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import attend_jax
from attend_jax import dropout, stacks, sweep
from attend_jax.implementations import blockwise
from attend_jax.implementations.blockwise import Order
from attend_jax.problem import Problem
from tests.judge import gives_the_truth

attend = functools.partial(attend_jax.attend, implementation="blockwise")

# Every axis has its own prime size or is broadcast; every feature meets most others.
CASES = [
    "S1,i=13,j=19,d=5,e=7",
    "S2,i=13,j=19,bias=b1ij,dtype=bfloat16,bias_dtype=float32",
    "S3,i=19,j=19,causal=1,bias=hij,lse=1",
    "S3,i=7,j=19,kv=2,causal=1,bias=bh1j",
    "S4,i=19,j=7,causal=1,bias=hij,lse=1,kv=2",
    "S8,i=19,j=7,causal=upper_left,bias=bhi1",
    "S8,i=7,j=19,causal=upper_left,bias=111j",
    "S12,i=13,j=19,mask=bhij,values=empty-row,lse=1,bias=bhij",
    "S12,i=19,j=19,causal=1,mask=b1ij,values=empty-row,lse=1,bias=j",
    "S12,i=19,j=13,causal=upper_left,mask=b11j,kv=1",
    "S14,i=13,j=19,causal=1,kv=2,layout=bnhd,scale=-0.7,bias=ij",
    "S16,i=13,j=19,dropout=0.3,causal=1,bias=hij",
    "S16,i=19,j=19,dropout=0.3,causal=1,mask=bhij,values=empty-row,lse=1",
    "S1,i=1,j=19,causal=1,dtype=float16",
    "S1,b=1,h=1,kv=1,i=29,j=3,causal=1,bias=hij",
]
# Blocks of four rows: whole and cut ones, looped over and written out; stacks one by one, several, and all at once.
ORDERS = [(Order(rows=4, stacks=1), 8), (Order(rows=4, stacks=3), 2), (Order(rows=3, stacks=None), 2)]


@pytest.fixture
def ordered(monkeypatch):
    def use(order, stretches):
        monkeypatch.setattr(blockwise, "order", lambda problem: order)
        monkeypatch.setattr(sweep, "_STRETCHES", stretches)

    return use


@pytest.mark.parametrize("order", ORDERS, ids=["one", "several", "all"])
@pytest.mark.parametrize("name", CASES)
def test_blocks_give_the_truth(name, order, ordered):
    ordered(*order)
    gives_the_truth(name, implementation="blockwise")


def test_the_order_of_a_cpu_and_that_of_everything_else_give_the_truth_at_a_real_length():
    for platform_rows in ("S3,b=1,h=2,kv=1,i=600,j=600,causal=1", "S1,b=1,h=2,kv=2,i=1100,j=530,bias=hij"):
        gives_the_truth(platform_rows, implementation="blockwise")


PROBLEM = Problem(1, 2, 2, 4096, 4096, 64, 64, jnp.dtype("float32"), platform="cpu")
LENGTHS = [1, 255, 256, 257, 2048, 2049, 10_007]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("offset", [None, 0, 300, -300])
def test_stretches_are_all_rows_with_no_key_beyond_the_corner_and_none_missed(length, offset):
    piece = sweep.Piece(length, length + (offset or 0) if length > 300 else length, 256, offset)
    end = 0
    for start, stop, rows, columns in sweep.stretches(piece):
        assert start == end
        assert (stop - start) % rows == 0
        end = stop
        if offset is not None and start + offset >= 0:
            assert columns == min(stop + offset, piece.columns)
        else:
            assert columns == piece.columns
    assert end == length
    assert len(sweep.stretches(piece)) <= 10


def temporaries(length, **options):
    shape = jax.ShapeDtypeStruct((1, 8, length, 64), jnp.float32)

    def step(query, key, value, cotangent):
        output, vjp = jax.vjp(functools.partial(attend, **options), query, key, value)
        return output, vjp(cotangent)

    return jax.jit(step).lower(*[shape] * 4).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_the_length(causal):
    short, long = (temporaries(length, causal=causal) for length in (2048, 4096))
    assert long <= 2 * short
    assert long < 100 * 2**20
    dropped = temporaries(4096, causal=causal, dropout_rate=0.1, dropout_rng=jax.random.key(0))
    assert dropped < 2 * long  # which weights are kept is made where it is needed


def test_a_bias_is_not_copied_whole():
    shape, bias = jax.ShapeDtypeStruct((1, 8, 512, 64), jnp.float32), jax.ShapeDtypeStruct((8, 512, 512), jnp.float32)
    program = jax.jit(attend).lower(shape, shape, shape, bias).compile()
    without = jax.jit(attend).lower(shape, shape, shape).compile()
    sizes = [x.memory_analysis().temp_size_in_bytes for x in (program, without)]
    assert sizes[0] < sizes[1] + 4 * 2**20  # it has 8 MiB


@pytest.mark.parametrize("options", [{"causal": True}, {"causal": "upper_left"}])
def test_blocks_beyond_the_diagonal_are_never_computed(ordered, options):
    # A NaN that is read spreads: 0 · NaN is NaN. It reaches the rows whose block holds its column, no others.
    ordered(Order(rows=4, stacks=1), 8)
    query = jnp.ones((1, 2, 16, 8))
    key = query.at[:, :, 9].set(jnp.nan)
    output = attend(query, key, key, **options)
    assert jnp.isnan(output[0, 0, :, 0]).tolist() == [False] * 8 + [True] * 8


def test_which_weights_are_dropped_does_not_depend_on_the_blocks(ordered):
    # Equal scores and an identity as value: the output is the matrix of dropped weights.
    query, value, rng = jnp.zeros((2, 3, 13, 8)), jnp.tile(jnp.eye(19), (2, 3, 1, 1)), jax.random.key(7)
    key = jnp.zeros((2, 3, 19, 8))
    kept = dropout.full_keep_mask(rng, 0.3, (2, 3, 13, 19))
    for order in ORDERS:
        ordered(*order)
        output = attend(query, key, value, dropout_rate=0.3, dropout_rng=rng)
        np.testing.assert_array_equal(output != 0, kept)
        # The backward pass makes them anew; with equal weights dvalue counts the kept ones of a column.
        dvalue = jax.grad(lambda v: attend(query, key, v, dropout_rate=0.3, dropout_rng=rng)[..., 0].sum())(value)
        np.testing.assert_allclose(dvalue[..., 0] * 0.7 * 19, kept.sum(2), rtol=1e-5)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), jnp.float32)


INPUTS = (normal(2, 4, 7, 5), normal(2, 2, 11, 5, seed=1), normal(2, 2, 11, 3, seed=2), normal(4, 7, 11, seed=3))


def loss(*arrays, **options):
    output, logsumexp = attend_jax.attend(*arrays, causal=True, return_logsumexp=True, **options)
    return jnp.sin(output).sum() + jnp.cos(logsumexp).sum()


def like_einsum(function, *arguments, **tolerance):
    """function(implementation)(*arguments) is the same for both."""
    actual, expected = (jax.jit(function(name))(*arguments) for name in ("blockwise", "einsum"))
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **({"rtol": 1e-5, "atol": 1e-5} | tolerance))


@pytest.mark.parametrize("order", ORDERS[1:], ids=["several", "all"])
def test_second_derivatives_are_those_of_einsum(order, ordered):
    ordered(*order)

    def along(implementation):
        gradient = jax.grad(functools.partial(loss, implementation=implementation), argnums=(0, 1, 2, 3))
        return lambda *arrays: jax.jvp(gradient, arrays, arrays)[1]

    like_einsum(along, *INPUTS, rtol=1e-4, atol=1e-4)

    def twice(implementation):
        def norm(*arrays):
            return sum(
                (x**2).sum()
                for x in jax.grad(functools.partial(loss, implementation=implementation), (0, 1, 3))(*arrays)
            )

        return jax.grad(norm, argnums=(0, 1, 2, 3))

    like_einsum(twice, *INPUTS, rtol=1e-4, atol=2e-4)


def test_a_hessian_is_that_of_einsum():
    like_einsum(lambda name: jax.hessian(lambda x: loss(x, *INPUTS[1:], implementation=name)), INPUTS[0], atol=1e-4)


def test_vmap_of_the_gradient_and_rematerialisation_are_those_of_einsum(ordered):
    ordered(Order(rows=3, stacks=3), 2)

    def gradients(implementation):
        one = jax.checkpoint(functools.partial(loss, implementation=implementation))

        def example(query, key, value, bias):
            return jax.grad(one, argnums=(0, 1, 2, 3))(query[None], key[None], value[None], bias)

        return jax.vmap(example, in_axes=(0, 0, 0, None))

    like_einsum(gradients, *INPUTS)


def test_a_traced_scale_has_a_gradient():
    like_einsum(lambda name: jax.grad(lambda scale: loss(*INPUTS, scale=scale, implementation=name)), jnp.float32(0.3))


def test_it_is_exported_with_a_symbolic_batch():
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in INPUTS[:3]]
    function = jax.jit(jax.grad(functools.partial(loss, implementation="blockwise"), argnums=(0, 1, 2, 3)))
    exported = jax.export.export(function)(*shapes, jax.ShapeDtypeStruct(INPUTS[3].shape, jnp.float32))
    for actual, expected in zip(exported.call(*INPUTS), function(*INPUTS), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", [jax.jvp, lambda f, x, t: jax.jacfwd(f)(*x)], ids=["jvp", "jacfwd"])
def test_forward_mode_is_an_error_that_names_einsum(transform):
    with pytest.raises(TypeError, match="implementation='einsum' has") as error:
        transform(lambda x: attend(x, *INPUTS[1:]), INPUTS[:1], INPUTS[:1])
    assert "Reverse mode and forward over reverse" in str(error.value)


def test_what_linearize_gives_is_refused_by_jax_itself_when_it_is_called():
    _, linear = jax.linearize(lambda x: attend(x, *INPUTS[1:]), *INPUTS[:1])
    with pytest.raises(TypeError, match="forward-mode"):
        linear(*INPUTS[:1])


def test_another_type_error_is_left_alone():
    with pytest.raises(TypeError, match=r"^no$"), stacks.reverse_mode_only():
        raise TypeError("no")


def test_no_keys_and_no_queries():
    query, key, value = (jnp.ones(shape) for shape in ((2, 3, 5, 4), (2, 3, 0, 4), (2, 3, 0, 7)))
    output, logsumexp = attend(query, key, value, return_logsumexp=True)
    assert (output == 0).all()
    assert output.shape == (2, 3, 5, 7)
    assert (logsumexp == -jnp.inf).all()
    assert attend(query[:, :, :0], query, query).shape == (2, 3, 0, 4)
