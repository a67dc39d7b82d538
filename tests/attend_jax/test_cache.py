"""`KeyValueCache`: one step at a time equals all at once."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attend_jax import KeyValueCache, attend
from parity import criterion, tensors
from parity.attention import Attention
from tests.judge import jit

# How long the steps are, of 7 in all.
ONE_BY_ONE, PROMPT_FIRST, AT_ONCE = (1,) * 7, (4, 1, 2), (7,)
CASES = [
    ("S3,i=7,j=7,causal=1,e=5,bias=hij", ONE_BY_ONE),
    ("S3,i=7,j=7,causal=1,e=5,bias=hij", PROMPT_FIRST),
    ("S3,i=7,j=7,causal=1,bias=bhij", AT_ONCE),
    ("S14,i=7,j=7,causal=1,layout=bnhd,bias=ij,scale=0.3", PROMPT_FIRST),
    ("S13,i=7,j=7,causal=1,kv=2,dtype=bfloat16,bias=hij,bias_dtype=float32", ONE_BY_ONE),
]


def rows(array, first, size, capacity):
    """Rows of a bias, with the columns of a cache."""
    if array is None:
        return None
    array = array if array.shape[-2] == 1 else array[..., first : first + size, :]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, capacity - array.shape[-1])])


@pytest.mark.parametrize("capacity", [7, 11])
@pytest.mark.parametrize(("name", "steps"), CASES, ids=str)
def test_step_by_step_is_all_at_once(name, steps, capacity):
    case = Attention.parse(name).case()
    arrays = tensors.make(case, 0)
    layout = case.arguments.get("layout", "bhnd")
    axis = layout.index("n")

    @jit
    def run(query, key, value, bias):
        shapes = ((*x.shape[:axis], capacity, *x.shape[axis + 1 :]) for x in (key, value))
        cache = KeyValueCache.zeros(*shapes, dtype=key.dtype, layout=layout)
        outputs = []
        for first, size in zip(itertools.accumulate((0, *steps)), steps, strict=False):
            part = [jax.lax.slice_in_dim(x, first, first + size, axis=axis) for x in (query, key, value)]
            cache = cache.append(*part[1:])
            own = rows(bias, first, size, capacity)
            outputs.append(cache.attend(part[0], own, scale=case.arguments.get("scale")))
        return jnp.concatenate(outputs, axis), cache.length

    output, length = run(*(arrays.get(name) for name in ("query", "key", "value", "bias")))
    expected = criterion.attention(case, arrays)["output"]
    assert output.dtype == expected.dtype
    assert length == 7
    assert (np.abs(np.asarray(output).astype("float64") - expected.truth) <= 4 * expected.width).all()


FRAMES = 6
Q, K, V = (np.random.default_rng(n).standard_normal((2, 3, FRAMES, 8)).astype("float32") for n in range(3))


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("shape", [(), (3, 1), (2, 1, 2), (2, 3, 2)], ids=str)
def test_a_mask_and_its_empty_rows_are_those_of_what_is_there(shape, layout):
    mask = np.random.default_rng(0).random((*shape, FRAMES)) > 0.6
    arrays = [x if layout == "bhnd" else x.swapaxes(1, 2) for x in (Q[:, :, 2:4], K[:, :, :4], V[:, :, :4])]
    zeros = KeyValueCache.zeros((2, 3, FRAMES, 8) if layout == "bhnd" else (2, FRAMES, 3, 8), layout=layout)
    found = jit(lambda q, k, v: zeros.append(k, v).attend(q, mask=mask))(*arrays)
    expected = jit(lambda q, k, v: attend(q, k, v, mask=mask[..., :4], causal=True, layout=layout))(*arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nothing = filled(4).attend(Q[:, :, :1], mask=np.zeros((1, FRAMES), bool))
    np.testing.assert_allclose(nothing[:, :, 0], V[:, :, :4].mean(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", ["einsum", "blockwise"])
def test_a_scan_over_frames_and_its_gradient(implementation):
    def by_frame(*arrays):
        def step(cache, frame):
            query, key, value = (x[:, :, None] for x in frame)
            cache = cache.append(key, value)
            return cache, cache.attend(query, implementation=implementation)[:, :, 0]

        frames = [jnp.moveaxis(x, 2, 0) for x in arrays]
        return jnp.moveaxis(jax.lax.scan(step, KeyValueCache.zeros(K.shape), frames)[1], 0, 2)

    def gradients(function):
        return jit(jax.grad(lambda *arrays: jnp.sin(function(*arrays)).sum(), (0, 1, 2)))(Q, K, V)

    expected = gradients(functools.partial(attend, causal=True))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), gradients(by_frame), expected)


def test_each_example_of_a_vmap_may_be_somewhere_else():
    caches = [KeyValueCache.zeros((1, 3, 8, 8)).append(K[:1, :, :n], V[:1, :, :n]) for n in (2, 5)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *caches)
    found = jit(jax.vmap(lambda cache: cache.append(K[1:, :, :1], V[1:, :, :1]).attend(Q[:1, :, :1])))(both)
    for cache, output in zip(caches, found, strict=True):
        expected = cache.append(K[1:, :, :1], V[1:, :, :1]).attend(Q[:1, :, :1])
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_in_an_nnx_module_under_jit():
    class Attention(nnx.Module):
        def __init__(self):
            self.cache = nnx.Cache(KeyValueCache.zeros(K.shape))

        def __call__(self, query, key, value):
            self.cache.set_value(self.cache.get_value().append(key, value))
            return self.cache.get_value().attend(query)

    module, step = Attention(), nnx.jit(lambda module, *frame: module(*frame))
    outputs = [step(module, *(x[:, :, n : n + 1] for x in (Q, K, V))) for n in range(FRAMES)]
    np.testing.assert_allclose(np.concatenate(outputs, 2), attend(Q, K, V, causal=True), rtol=1e-5, atol=1e-6)


def filled(length, capacity=FRAMES):
    return KeyValueCache.zeros((2, 3, capacity, 8)).append(K[:, :, :length], V[:, :, :length])


def test_more_than_it_holds():
    with pytest.raises(ValueError, match=r"the cache holds 6; got 2 more, 7 in all. Make it with a larger capacity"):
        filled(5).append(K[:, :, :2], V[:, :, :2])
    many = jax.ShapeDtypeStruct((2, 3, 7, 8), jnp.float32)
    with pytest.raises(ValueError, match="the cache holds 6; got 7 more"):
        jax.eval_shape(KeyValueCache.append, filled(5), many, many)


def test_under_jit_more_than_it_holds_is_nan_and_not_something_wrong():
    @jit
    def run(cache):
        cache = cache.append(K[:, :, :2], V[:, :, :2])
        return cache.attend(Q[:, :, :2])

    assert np.isfinite(run(filled(4))).all()
    assert np.isnan(run(filled(5))).all()


def test_more_queries_than_keys():
    with pytest.raises(ValueError, match=r"at least as many keys as queries; got 3 queries and 2 keys. Append"):
        filled(2).attend(Q[:, :, :3])
    run = jit(lambda cache: cache.attend(Q[:, :, :3]))
    assert np.isnan(run(filled(2))).all()
    assert np.isfinite(run(filled(3))).all()


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        (
            K[:, :2],
            V,
            ValueError,
            r"`key` must have the cache's shape \(2, 3, 6, 8\) \(b h n d\), the length aside; got",
        ),
        (K, V[..., :5], ValueError, r"`value` must have the cache's shape .*got \(2, 3, 6, 5\)"),
        (K[0], V, ValueError, r"`key` must have .*got \(3, 6, 8\)"),
        (K, V[:, :, :5], ValueError, "key and value must have the same length; got 6 and 5"),
        (K.astype("float16"), V, TypeError, "`key` must have the cache's dtype float32; got float16. Convert it"),
    ],
    ids=["heads", "features", "rank", "lengths", "dtype"],
)
def test_what_does_not_fit_in_is_refused(key, value, error, words):
    with pytest.raises(error, match=words):
        KeyValueCache.zeros((2, 3, 6, 8)).append(key, value)


def test_what_cannot_be_made():
    with pytest.raises(
        ValueError, match=r"must have 4 axes \(b h n d\) and differ in the last only; got \(2, 3, 6\) and"
    ):
        KeyValueCache.zeros((2, 3, 6))
    with pytest.raises(ValueError, match=r"differ in the last only; got \(2, 3, 6, 8\) and \(2, 3, 7, 8\)"):
        KeyValueCache.zeros((2, 3, 6, 8), (2, 3, 7, 8))
    with pytest.raises(ValueError, match="`layout` must be one of 'bhnd', 'bnhd'; got 'nbhd'"):
        KeyValueCache.zeros((2, 3, 6, 8), layout="nbhd")


def test_what_attend_refuses():
    for name, shape in (("bias", (3, 1, 5)), ("mask", (1, 5))):
        with pytest.raises(ValueError, match=rf"`{name}` must broadcast to .* = \(2, 3, 1, 6\)"):
            filled(2).attend(Q[:, :, :1], **{name: np.ones(shape, bool)})
    with pytest.raises(TypeError, match="must share one dtype"):
        filled(2).attend(Q[:, :, :1].astype("float16"))
