"""The Triton kernels on a machine without a GPU: interpreted they give the truth, and Triton's dialect takes them.

That XLA compiles what is lowered here, and that it is fast, is for docs/gpu-triton-sweep.py on a GPU.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import attend_jax
from attend_jax import dropout
from attend_jax.implementations.triton import plan, small
from attend_jax.problem import Problem
from parity import tensors
from parity.attention import Attention
from tests.judge import gives_the_truth, jit

# Two tiles of rows and columns or more, of different sizes, so that rows cannot pass for columns.
SMALL = plan.Tuning(
    forward=plan.Blocks(16, 32, 4, 2),
    dq=plan.Blocks(32, 16, 4, 2),
    dkv=plan.Blocks(16, 32, 4, 2),
    dbias=plan.Blocks(16, 32, 4, 2),
)


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(plan, "INTERPRET", True)
    monkeypatch.setattr(plan, "TUNING", SMALL)
    monkeypatch.setattr(small, "MAX_LENGTH", 0)


@pytest.fixture
def with_gpu(monkeypatch):
    """JAX believes that there is a GPU; what is lowered for it can be looked at, not run."""
    monkeypatch.setattr(plan, "_unavailable", lambda: None)


# Every axis has its own prime size or is broadcast; every feature meets most others.
CASES = [
    "i=37,j=53",
    "i=37,j=53,kv=2,d=24,e=40,causal=1,layout=bnhd,bias=hij",
    "i=53,j=37,kv=2,causal=1,bias=b1ij,lse=1,dtype=bfloat16",
    "i=53,j=37,kv=1,causal=upper_left,layout=bnhd,dtype=float16,bias=ij,bias_dtype=float32",
    "i=32,j=64,mask=bhij,values=empty-row,dropout=0.3",
    "i=37,j=53,kv=2,causal=1,mask=b1ij,values=empty-row,bias=bhij,lse=1",
    "i=53,j=37,causal=1,mask=j,bias=b11j,lse=1,layout=bnhd",
    "i=37,j=53,causal=1,mask=bhi1,values=empty-row,bias=bhi1,lse=1",
    "i=53,j=37,mask=b11j,values=empty-row,causal=upper_left,scale=-0.7,dtype=bfloat16",
    "i=1,j=37,causal=1,bias=111j,scale=0.3",
    "i=13,j=53,h=6,kv=2,causal=1,bias=hij,layout=bnhd",
    "i=16,j=37,causal=upper_left,bias=b11j,lse=1,dtype=bfloat16",
    "i=13,j=7,mask=b1ij,values=empty-row,causal=1,dropout=0.3,bias=bhi1",
]
CASES = [f"S1,{text}" for text in CASES]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("interpreted")
def test_the_kernels_give_the_truth(name):
    gives_the_truth(name, implementation="triton")


# One tile holds the scores of a head, and one kernel the backward pass; `programs` share (batch, head) unevenly.
ONE_TILE = [
    "i=37,j=53,d=24,e=40,scale=0.7",
    "i=16,j=16,bias=hij,causal=1,dtype=bfloat16,bias_dtype=float32",
    "i=53,j=37,kv=4,bias=bhij,causal=1,layout=bnhd,lse=1",
    "i=13,j=64,b=5,bias=b1ij,mask=bhij,values=empty-row,dropout=0.3",
    "i=1,j=3,b=5,bias=ij,causal=upper_left,mask=j,values=empty-row,lse=1,dtype=float16",
]


@pytest.mark.parametrize("name", ONE_TILE)
@pytest.mark.parametrize("programs", [1, 8, 8192])
@pytest.mark.usefixtures("interpreted")
def test_the_backward_pass_in_one_tile_gives_the_truth(name, programs, monkeypatch):
    monkeypatch.setattr(small, "MAX_LENGTH", 64)
    monkeypatch.setattr(small, "_PROGRAMS", programs)
    gives_the_truth(f"S1,{name}", implementation="triton")


@pytest.mark.usefixtures("interpreted")
def test_dropout_drops_what_einsum_drops_bit_for_bit():
    # Equal scores and an identity as value: the output is the dropped weights themselves.
    query, value, rng = jnp.zeros((2, 3, 37, 8)), jnp.tile(jnp.eye(32), (2, 3, 1, 1)), jax.random.key(7)
    run = functools.partial(attend_jax.attend, dropout_rate=0.3, dropout_rng=rng, implementation="triton")
    kept = dropout.full_keep_mask(rng, 0.3, (2, 3, 37, 32))
    np.testing.assert_array_equal(jit(run)(query, query[:, :, :32], value) != 0, kept)
    # Flax may drop the same weights in every batch and head.
    run = functools.partial(attend_jax.dot_product_attention, dropout_rate=0.3, dropout_rng=rng)
    query, key, value = (x.swapaxes(1, 2) for x in (query, query[:, :, :32], value))
    found = jit(functools.partial(run, implementation="triton"))(query, key, value).swapaxes(1, 2) != 0
    np.testing.assert_array_equal(found, jnp.broadcast_to(kept[:1, :1], kept.shape))


@pytest.mark.usefixtures("interpreted")
def test_dropout_of_everything_and_the_generator_in_backward_and_a_traced_scale():
    case = Attention.parse("S6,b=1,h=2,kv=2,i=37,j=32,bias=hij,dropout=0.3,causal=1").case()
    arrays, rng = tensors.make(case, 0), jax.random.key(7)
    arrays["dropout_mask"] = np.asarray(dropout.full_keep_mask(rng, 0.3, (1, 2, 37, 32)))
    inputs = [arrays[name] for name in ("query", "key", "value", "bias")]

    def loss(scale, inputs, rate, implementation):
        options = {"dropout_rate": rate, "dropout_rng": rng, "causal": True, "implementation": implementation}
        return (attend_jax.attend(*inputs, scale=scale, **options) * arrays["cotangent_output"]).sum()

    @jit
    def gradients(scale):
        partly = [jax.grad(loss, (0, 1))(scale, inputs, 0.3, name) for name in ("triton", "einsum")]
        return partly, jax.grad(loss, (0, 1))(scale, inputs, 1.0, "triton")

    (actual, expected), nothing = gradients(jnp.float32(0.4))
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(nothing))


@pytest.mark.usefixtures("interpreted")
def test_vmap_and_rematerialisation_of_the_gradient():
    case = Attention.parse("S1,b=3,h=2,kv=1,i=17,j=19,bias=hij,causal=1").case()
    arrays = {name: jnp.asarray(array) for name, array in tensors.make(case, 0).items()}

    def gradient(query, key, value, bias, implementation):
        def loss(*inputs):
            return jnp.sin(attend_jax.attend(*inputs, causal=True, implementation=implementation)).sum()

        # One example has a batch of one; the bias is shared.
        return jax.grad(jax.checkpoint(loss), argnums=(0, 1, 2, 3))(query[None], key[None], value[None], bias)

    inputs = [arrays[name] for name in ("query", "key", "value", "bias")]
    actual, expected = (
        jit(jax.vmap(functools.partial(gradient, implementation=name), in_axes=(0, 0, 0, None)))(*inputs)
        for name in ("triton", "einsum")
    )
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
def test_blocks_beyond_the_diagonal_are_never_computed():
    # A NaN that is read spreads: 0 · NaN is NaN. It reaches the rows whose last block of 32 keys holds it, not others.
    query = jnp.ones((1, 1, 64, 16))
    key = query.at[:, :, 63].set(jnp.nan)
    output = jit(functools.partial(attend_jax.attend, causal=True, implementation="triton"))(query, key, key)
    assert jnp.isnan(output[0, 0, :, 0]).tolist() == [False] * 32 + [True] * 32


# What is lowered is Triton's dialect, checked as it is built: operations it lacks, sizes that are no power of two and
# mismatched types are errors here, without a GPU. (heads, head sizes, options, shape of bias, of mask.)
SIZES = {"b": 2, "h": 4, "i": 300, "j": 413}
LOWERINGS = [
    ({"dtype": "bfloat16"}, {}),
    ({"dtype": "float16", "kv_heads": 2, "layout": "bnhd", "head_dim": 40, "value_dim": 72}, {"causal": True}),
    ({"dtype": "float32", "q_len": 500, "bias": "hij", "value_dim": 128}, {"causal": True, "return_logsumexp": True}),
    ({"dtype": "bfloat16", "bias": "b1ij", "mask": "bhij"}, {"causal": "upper_left", "return_logsumexp": True}),
    ({"dtype": "bfloat16", "bias": "bh1j", "mask": "j", "kv_heads": 1}, {"causal": True}),
    ({"dtype": "float16", "bias": "i1", "bias_dtype": "float32", "mask": "bhi1"}, {"causal": True, "scale": 0.3}),
    ({"dtype": "bfloat16", "bias": "1111", "layout": "bnhd", "head_dim": 8}, {"dropout_rate": 0.3}),
    ({"dtype": "bfloat16", "bias": "ij", "q_len": 16, "kv_len": 65}, {"dropout_rate": 1.0}),
    ({"dtype": "float32", "dropout_mask": "bhij", "q_len": 1}, {"dropout_rate": 0.3, "causal": True}),
]
ONE_TILE_LOWERINGS = [
    ({"dtype": "bfloat16", "bias": "hij", "q_len": 16, "kv_len": 16, "bias_dtype": "float32"}, {}),
    ({"dtype": "float16", "bias": "b1ij", "q_len": 7, "kv_len": 64, "layout": "bnhd"}, {"causal": True}),
    ({"dtype": "float32", "mask": "bhij", "q_len": 64, "kv_len": 40, "head_dim": 24}, {"return_logsumexp": True}),
]


def shapes(sizes):
    sizes = SIZES | {"head_dim": 64, "value_dim": 64, "kv_heads": 4, "layout": "bhnd"} | sizes
    sizes |= {"i": sizes.get("q_len", SIZES["i"]), "j": sizes.get("kv_len", SIZES["j"])}

    def features(heads, length, size):
        pair = (heads, length) if sizes["layout"] == "bhnd" else (length, heads)
        return jax.ShapeDtypeStruct((2, *pair, size), sizes["dtype"])

    def pairs(name, dtype):
        form = sizes.get(name)
        return form and jax.ShapeDtypeStruct(tuple(sizes.get(axis, 1) for axis in form), dtype)

    inputs = {
        "query": features(4, sizes["i"], sizes["head_dim"]),
        "key": features(sizes["kv_heads"], sizes["j"], sizes["head_dim"]),
        "value": features(sizes["kv_heads"], sizes["j"], sizes["value_dim"]),
        "bias": pairs("bias", sizes.get("bias_dtype", sizes["dtype"])),
        "scale": jax.ShapeDtypeStruct((), "float32") if "traced_scale" in sizes else None,
    }
    return inputs, {"mask": pairs("mask", bool), "dropout_mask": pairs("dropout_mask", bool)}


def lowered(sizes, options):
    inputs, booleans = shapes(sizes)
    options = options | {"layout": sizes.get("layout", "bhnd"), "implementation": "triton"}
    inputs, booleans = ({name: x for name, x in group.items() if x is not None} for group in (inputs, booleans))

    def loss(inputs, booleans, rng):
        drop = {"dropout_rng": rng} if "dropout_rate" in options and "dropout_mask" not in booleans else {}
        out = jax.tree.leaves(attend_jax.attend(**inputs, **booleans, **drop, **options))
        return sum(jnp.sin(array.astype(jnp.float32)).sum() for array in out)

    traced = jax.jit(jax.grad(loss)).trace(inputs, booleans, jax.random.key(0))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("q_len", "kv_len", "bias_dtype", "expected"),
    [
        (300, 413, None, plan.TABLE[2, 64, 0]),
        (300, 413, "bfloat16", plan.TABLE[2, 64, 2]),
        (300, 413, "float32", plan.TABLE[2, 64, 4]),
        (64, 64, "float32", plan.TABLE[2, 64, 2]),
        (1, 413, None, plan.FEW),
        (1, 413, "float32", plan.TABLE[2, 64, 4]),
        (16, 64, None, plan.TABLE[2, 64, 0]),
    ],
)
def test_tiles_go_by_the_bytes_of_the_bias_and_by_how_few_the_queries_are(q_len, kv_len, bias_dtype, expected):
    problem = dataclasses.replace(
        PROBLEM, q_len=q_len, kv_len=kv_len, dtype=jnp.dtype("bfloat16"),
        bias_shape=bias_dtype and (1, 1, q_len, kv_len), bias_dtype=bias_dtype and jnp.dtype(bias_dtype),
    )  # fmt: skip
    assert plan.tuning(problem) == expected


@pytest.mark.parametrize(("sizes", "options"), LOWERINGS, ids=lambda part: ",".join(map(str, part.values())) or "plain")
@pytest.mark.usefixtures("with_gpu")
def test_triton_takes_the_kernels(sizes, options):
    text = lowered(sizes, options)
    for kernel in ("forward_kernel", "dkv_kernel"):
        assert text.count(f'name = "attend_{kernel}"') == 1
    # Where all queries are in one block, the kernel of keys and values makes their gradient as well.
    assert text.count('name = "attend_dq_kernel"') == (sizes.get("q_len", SIZES["i"]) > 64)
    # Only a bias with both lengths has a gradient of its own; the others are sums that dq and dkv leave behind.
    assert text.count('name = "attend_dbias_kernel"') == (sizes.get("bias", "")[-2:] == "ij")


@pytest.mark.parametrize(("sizes", "options"), ONE_TILE_LOWERINGS, ids=lambda part: ",".join(map(str, part.values())))
@pytest.mark.usefixtures("with_gpu")
def test_triton_takes_the_kernel_of_one_tile_and_there_is_no_other(sizes, options):
    text = lowered(sizes, options)
    assert text.count('name = "attend_') == text.count('name = "attend_forward_kernel"') + 1
    assert text.count('name = "attend_small_kernel"') == 1


@pytest.mark.usefixtures("with_gpu")
def test_a_traced_scale_is_lowered_with_its_gradient():
    assert "attend_dq_kernel" in lowered({"dtype": "bfloat16", "traced_scale": True}, {"causal": True})


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.usefixtures("with_gpu")
def test_around_the_kernels_there_is_no_array_of_scores_and_no_transpose_of_an_input(layout):
    sizes = {"dtype": "bfloat16", "layout": layout, "kv_heads": 2, "bias": "hij"}
    text = lowered(sizes, {"causal": True, "dropout_rate": 0.3})
    assert "x300x413x" in text  # the bias and its gradient
    assert "2x4x300x413x" not in text
    assert all("x64x" not in line for line in text.splitlines() if "stablehlo.transpose" in line)
    assert "stablehlo.pad" not in text


PROBLEM = Problem(2, 4, 4, 5, 7, 8, 8, jnp.dtype("float32"))
REFUSALS = [
    ({}, "there is no CUDA device"),
    ({"dtype": jnp.dtype("float64")}, "takes float16, bfloat16 and float32 only; got float64"),
    ({"q_len": 0}, "takes no empty arrays"),
    ({"value_dim": 0}, "takes no empty arrays"),
    ({"batch": jax.export.symbolic_shape("b")[0]}, "takes no symbolic sizes"),
    ({"value_dim": 136}, "takes head sizes of at most 128; got 136"),
    ({"precision": jax.lax.Precision.HIGHEST}, "multiplies float32 with float32's accuracy only; got a precision"),
    ({"mask_shape": (1, 1, 50000, 50000)}, "takes no mask of 2**31 to 2**32 elements: Pallas indexes it in 32 bits"),
]


@pytest.mark.parametrize(("edits", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_what_the_kernels_cannot_do_is_refused_in_words(edits, words):
    assert plan.refusal(dataclasses.replace(PROBLEM, **edits)) == words


def test_a_precision_set_for_all_of_jax_is_refused_for_fp32_and_does_not_touch_16_bits(monkeypatch):
    monkeypatch.setattr(plan, "INTERPRET", True)
    with jax.default_matmul_precision("tensorfloat32"):
        assert "default_matmul_precision" in plan.refusal(PROBLEM)
        assert plan.refusal(dataclasses.replace(PROBLEM, dtype=jnp.dtype("bfloat16"))) is None
    assert plan.refusal(PROBLEM) is None
