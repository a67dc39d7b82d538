"""Which weights are dropped (S6): bits, statistics, and that nothing but the key and the place has a say."""

from __future__ import annotations

import functools

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest

import attend_jax
from attend_jax import dropout

SHAPE = (2, 3, 5, 7)


def key_of(kind):
    return jax.random.PRNGKey(11) if kind == "raw" else jax.random.key(11, impl=kind)


KINDS = ["threefry2x32", "rbg", "unsafe_rbg", "raw"]


def word(number):
    return jnp.uint32(number)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        # Random123's kat_vectors, threefry2x32 with 20 rounds.
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_vectors(key, counter, expected):
    actual = dropout.threefry(tuple(map(word, key)), tuple(map(word, counter)))
    assert tuple(map(int, actual)) == expected


def oracle(key, rate, shape):
    """The mask from JAX's own Threefry, one (batch, head) at a time."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    batch, heads, q_len, kv_len = shape
    row, column = (np.broadcast_to(x, (q_len, kv_len)).ravel() for x in np.ogrid[:q_len, :kv_len])
    counters = jnp.asarray(np.concatenate([row, column]), jnp.uint32)
    keep = np.empty(shape, bool)
    for b in range(batch):
        for h in range(heads):
            per_head = jax.extend.random.threefry_2x32(words, jnp.array([b, h], jnp.uint32))
            bits = jax.extend.random.threefry_2x32(per_head, counters)[: q_len * kv_len]
            keep[b, h] = np.asarray(bits >= np.uint32(rate * 2**32)).reshape(q_len, kv_len)
    return keep


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_bit_for_bit_that_of_jax_own_threefry(kind):
    key = key_of(kind)
    np.testing.assert_array_equal(dropout.full_keep_mask(key, 0.375, SHAPE), oracle(key, 0.375, SHAPE))


def test_any_block_equals_its_part_of_the_whole():
    key = jax.random.key(0)
    whole = dropout.full_keep_mask(key, 0.5, SHAPE)
    for index in [np.s_[1:, :2, 3:5, :1], np.s_[:1, 2:, 1:4, 5:], np.s_[:, :, 4:, 2:6]]:
        places = [jnp.arange(n, dtype=jnp.uint32)[part] for n, part in zip(SHAPE, index, strict=True)]
        block = dropout.keep_mask(key, 0.5, *jnp.meshgrid(*places, indexing="ij"))
        np.testing.assert_array_equal(block, whole[index])


@pytest.mark.parametrize("axis", range(4))
def test_a_longer_axis_leaves_the_mask_of_the_shorter_one(axis):
    longer = tuple(n + 2 * (a == axis) for a, n in enumerate(SHAPE))
    part = dropout.full_keep_mask(jax.random.key(0), 0.5, longer)[tuple(map(slice, SHAPE))]
    np.testing.assert_array_equal(part, dropout.full_keep_mask(jax.random.key(0), 0.5, SHAPE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_kept_share_is_one_minus_the_rate_in_every_batch_head_row_and_column(kind, rate):
    shape = (3, 5, 61, 67)
    keep = np.asarray(dropout.full_keep_mask(key_of(kind), rate, shape), np.float64)
    for axis, size in enumerate(shape):
        share = keep.mean(axis=tuple(a for a in range(4) if a != axis))
        # Six standard deviations: 2e-9 a number, if chance is all there is.
        assert np.abs(share - (1 - rate)).max() < 6 * np.sqrt(rate * (1 - rate) * size / keep.size)


@pytest.mark.parametrize("axis", range(4))
def test_neighbours_are_dropped_independently(axis):
    keep = np.asarray(dropout.full_keep_mask(jax.random.key(3), 0.5, (3, 5, 61, 67)), np.float64) * 2 - 1
    product = keep * np.roll(keep, 1, axis)
    assert abs(product.sum()) < 6 * np.sqrt(product.size)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 1), (1e-12, 1), (1.0, 0)])
def test_the_ends_of_the_range_keep_all_or_nothing(rate, kept):
    assert dropout.full_keep_mask(jax.random.key(0), rate, SHAPE).mean() == kept


def test_other_keys_drop_other_weights():
    masks = [dropout.full_keep_mask(key, 0.5, SHAPE) for key in jax.random.split(jax.random.key(0), 5)]
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 5


def arrays():
    rng = np.random.default_rng(0)
    batch, heads, q_len, kv_len = SHAPE
    sizes = [(heads, q_len, 11), (heads, kv_len, 11), (heads, kv_len, 13)]
    return [jnp.asarray(rng.standard_normal((batch, *size)), jnp.float32) for size in sizes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_and_its_mask_give_the_same_output_and_gradients(kind):
    # So the backward pass drops what the forward pass dropped, and 1 / (1 - p) is in both.
    query, key, value = arrays()
    keep = dropout.full_keep_mask(key_of(kind), 0.375, SHAPE)

    def loss(inputs, **how):
        return jnp.sin(attend_jax.attend(*inputs, causal=True, dropout_rate=0.375, **how)).sum()

    from_key = jax.jit(jax.value_and_grad(functools.partial(loss, dropout_rng=key_of(kind))))((query, key, value))
    from_mask = jax.jit(jax.value_and_grad(functools.partial(loss, dropout_mask=keep)))((query, key, value))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), from_key, from_mask)


def test_with_the_identity_as_value_the_output_is_the_dropped_weights():
    query, key, _ = arrays()
    value = jnp.broadcast_to(jnp.eye(7), (2, 3, 7, 7))
    rng = jax.random.key(5)
    weights = attend_jax.attend(query, key, value)
    dropped = attend_jax.attend(query, key, value, dropout_rate=0.25, dropout_rng=rng)
    np.testing.assert_allclose(
        dropped, jnp.where(dropout.full_keep_mask(rng, 0.25, SHAPE), weights / 0.75, 0), rtol=1e-6
    )


def test_neither_jit_nor_layout_nor_rematerialisation_changes_what_is_dropped():
    inputs = arrays()

    def plain(*inputs):
        return attend_jax.attend(*inputs, dropout_rate=0.5, dropout_rng=jax.random.key(7))

    def other_layout(*inputs):
        swapped = (x.swapaxes(1, 2) for x in inputs)
        return attend_jax.attend(*swapped, dropout_rate=0.5, dropout_rng=jax.random.key(7), layout="bnhd").swapaxes(
            1, 2
        )

    def gradient(function, transform=jax.jit):
        return transform(jax.grad(lambda *inputs: jnp.sin(function(*inputs)).sum(), argnums=(0, 1, 2)))(*inputs)

    expected = gradient(plain, transform=lambda function: function)
    for function in (plain, other_layout, jax.checkpoint(plain)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), gradient(function), expected)


def test_at_rate_one_output_and_gradients_are_zero_and_not_nan():
    inputs = arrays()
    options = {"dropout_rate": 1.0, "dropout_rng": jax.random.key(0)}
    output, vjp = jax.vjp(lambda *inputs: attend_jax.attend(*inputs, **options), *inputs)
    assert not output.any()
    assert not any(gradient.any() for gradient in vjp(output + 1))


def test_grouped_heads_drop_by_query_head():
    query, key, value = arrays()
    rng = jax.random.key(1)
    shared = attend_jax.attend(query, key[:, :1], value[:, :1], dropout_rate=0.5, dropout_rng=rng)
    repeated = attend_jax.attend(
        query, *(jnp.repeat(x[:, :1], 3, axis=1) for x in (key, value)), dropout_rate=0.5, dropout_rng=rng
    )
    np.testing.assert_allclose(shared, repeated, atol=1e-6)
