"""Every bad call is refused before any compute, in words that name what was expected and what came.

The table is also run through attend_torch: the code of the checks is not shared, their words are.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import attend_jax
import attend_torch

GOOD = {
    "query": ("float32", (2, 6, 5, 11)),
    "key": ("float32", (2, 3, 7, 11)),
    "value": ("float32", (2, 3, 7, 13)),
}


def f32(*shape):
    return "float32", shape


# What is changed in a good call, and the error in full or its beginning. ("dtype", shape) is an array.
BAD = [
    ({"query": f32(6, 5, 11)}, ValueError, "`query` must have 4 axes (b h n d); got shape (6, 5, 11)."),
    ({"value": f32(1, 2, 3, 7, 13)}, ValueError, "`value` must have 4 axes (b h n d); got shape (1, 2, 3, 7, 13)."),
    ({"key": f32(7, 11), "layout": "bnhd"}, ValueError, "`key` must have 4 axes (b n h d); got shape (7, 11)."),
    ({"key": ("int32", (2, 3, 7, 11))}, TypeError, "`key` must be floating point; got int32. Convert it first."),
    ({"query": ("bool", (2, 6, 5, 11))}, TypeError, "`query` must be floating point; got bool. Convert it first."),
    ({"query": ("complex64", (2, 6, 5, 11))}, TypeError, "`query` must be floating point; got complex64."),
    ({"value": ("float16", (2, 3, 7, 13))}, TypeError,
     "`query`, `key` and `value` must share one dtype; `query` has float32, `value` float16."),
    ({"query": ("bfloat16", (2, 6, 5, 11))}, TypeError,
     "`query`, `key` and `value` must share one dtype; `query` has bfloat16, `key` float32."),
    ({"query": [[1.0]]}, TypeError, "`query` must be an array; got list."),
    ({"key": None}, TypeError, "`key` must be an array; got NoneType."),
    ({"key": f32(1, 3, 7, 11), "value": f32(1, 3, 7, 13)}, ValueError,
     "the batch sizes must be equal, a batch of 1 is not stretched; got query (2, 6, 5, 11), key (1, 3, 7, 11), "
     "value (1, 3, 7, 13) in layout 'bhnd'."),
    ({"value": f32(2, 6, 7, 13)}, ValueError,
     "key and value must have the same number of heads; got query (2, 6, 5, 11), key (2, 3, 7, 11), "
     "value (2, 6, 7, 13) in layout 'bhnd'."),
    ({"query": f32(2, 5, 5, 11)}, ValueError,
     "query heads must be a multiple of key heads (5 is not of 3); got query (2, 5, 5, 11)"),
    ({"query": f32(2, 1, 5, 11)}, ValueError, "query heads must be a multiple of key heads (1 is not of 3); got"),
    ({"key": f32(2, 0, 7, 11), "value": f32(2, 0, 7, 13)}, ValueError,
     "query heads must be a multiple of key heads (6 is not of 0); got"),
    ({"key": f32(2, 3, 7, 10)}, ValueError,
     "query and key must have the same head size; got query (2, 6, 5, 11), key (2, 3, 7, 10)"),
    ({"key": f32(2, 3, 7, 1)}, ValueError, "query and key must have the same head size; got"),
    ({"query": f32(2, 6, 5, 0), "key": f32(2, 3, 7, 0)}, ValueError,
     "the head size of query and key must be at least 1; got query (2, 6, 5, 0), key (2, 3, 7, 0)"),
    ({"value": f32(2, 3, 1, 13)}, ValueError,
     "key and value must have the same length; got query (2, 6, 5, 11), key (2, 3, 7, 11), value (2, 3, 1, 13)"),
    # In this layout it is heads that differ: 5 of them on 7.
    ({"layout": "bnhd"}, ValueError, "query heads must be a multiple of key heads (5 is not of 7); got query"),
    ({"bias": f32(6, 5, 9)}, ValueError,
     "`bias` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 5, 7) without enlarging it; got shape (6, 5, 9). "
     "Each axis, counted from the last, must be 1 or the full size."),
    ({"bias": f32(3, 1, 1)}, ValueError, "`bias` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 5, 7)"),
    ({"bias": f32(1, 2, 6, 5, 7)}, ValueError, "`bias` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 5, 7)"),
    ({"bias": ("float32", (4, 7)), "query": f32(2, 6, 1, 11)}, ValueError,
     "`bias` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 1, 7) without enlarging it; got shape (4, 7)."),
    ({"bias": f32(0, 5, 7)}, ValueError, "`bias` must broadcast to"),
    ({"bias": 1.0}, TypeError, "`bias` must be an array; got float."),
    ({"bias": ("int32", (5, 7))}, TypeError, "`bias` must be floating point; got int32. A boolean mask goes in"),
    ({"bias": ("bool", (5, 7))}, TypeError, "`bias` must be floating point; got bool. A boolean mask goes in"),
    ({"bias": ("float64", (5, 7))}, TypeError,
     "`bias` must have query's dtype, a narrower one, or float32 with 16-bit inputs; got float64 with float32."),
    ({"mask": ("bool", (5, 9))}, ValueError,
     "`mask` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 5, 7) without enlarging it; got shape (5, 9)."),
    ({"mask": f32(5, 7)}, TypeError,
     "`mask` must be boolean (True = attend; an additive mask is a `bias`); got float32."),
    ({"mask": True}, TypeError, "`mask` must be an array; got bool."),
    ({"dropout_mask": ("bool", (2, 6, 5, 7))}, ValueError,
     "`dropout_mask` drops weights in training only; got one with a dropout rate of 0 (evaluation). Leave it out, or "
     "train with a dropout rate above 0."),
    ({"dropout_mask": ("bool", (6, 5, 7)), "dropout_rate": 0.5}, ValueError,
     "`dropout_mask` must have shape (batch, heads, q_len, kv_len) = (2, 6, 5, 7); got (6, 5, 7)."),
    ({"dropout_mask": f32(2, 6, 5, 7), "dropout_rate": 0.5}, TypeError,
     "`dropout_mask` must be boolean (True = keep); got float32."),
    ({"dropout_mask": [True], "dropout_rate": 0.5}, TypeError, "`dropout_mask` must be an array; got list."),
    ({"dropout_rate": 1.5}, ValueError,
     "`dropout_rate` must lie between 0 and 1; got 1.5. It is the share that is dropped."),
    ({"dropout_rate": -0.1}, ValueError, "`dropout_rate` must lie between 0 and 1; got -0.1."),
    ({"dropout_rate": float("nan")}, ValueError, "`dropout_rate` must lie between 0 and 1; got nan."),
    ({"dropout_rate": "0.5"}, TypeError, "`dropout_rate` must be a number between 0 and 1; got str."),
    ({"dropout_rate": True}, TypeError, "`dropout_rate` must be a number between 0 and 1; got bool."),
    ({"scale": float("nan")}, ValueError, "`scale` must be finite; got nan."),
    ({"scale": "1"}, TypeError, "`scale` must be a number or None (head_dim ** -0.5); got str."),
    ({"scale": True}, TypeError, "`scale` must be a number or None (head_dim ** -0.5); got bool."),
    ({"causal": "lower-right"}, ValueError,
     "`causal` must be one of False, True, 'lower_right', 'upper_left'; got 'lower-right'."),
    ({"causal": 1}, ValueError, "`causal` must be one of False, True, 'lower_right', 'upper_left'; got 1."),
    ({"causal": None}, ValueError, "`causal` must be one of False, True, 'lower_right', 'upper_left'; got None."),
    ({"layout": "bhdn"}, ValueError, "`layout` must be one of 'bhnd', 'bnhd'; got 'bhdn'."),
    ({"layout": None}, ValueError, "`layout` must be one of 'bhnd', 'bnhd'; got None."),
    ({"implementation": "flash"}, ValueError, "`implementation` must be one of "),
    ({"implementation": None}, ValueError, "`implementation` must be one of "),
]  # fmt: skip
IDS = [",".join(f"{name}={value}" for name, value in edits.items()) for edits, *_ in BAD]


def arrays(edits, convert):
    def array(value):
        if not (isinstance(value, tuple) and isinstance(value[0], str)):
            return value
        dtype, shape = value
        return convert(np.zeros(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))

    return {name: array(value) for name, value in (GOOD | edits).items()}


def to_torch(array):
    if array.dtype == ml_dtypes.bfloat16:
        return torch.zeros(array.shape, dtype=torch.bfloat16)
    return torch.from_numpy(array)


def words_of(function, arguments):
    """Type and words, the frameworks' own names for an array and a number taken out."""
    with pytest.raises((TypeError, ValueError)) as error:
        function(**arguments)
    words = str(error.value).replace("torch.Tensor or None", "array").replace("torch.Tensor", "array")
    words = words.replace("JAX or NumPy array", "array").replace("a array", "an array").replace("torch.", "")
    words = words.replace("a Python number", "a number").removesuffix(" It is static: under jit, close over it.")
    return error.type, re.sub(r"one of 'auto'.*;|one of 'plain', 'fused';", "one of its own;", words)


@pytest.mark.parametrize(("edits", "kind", "words"), BAD, ids=IDS)
def test_a_bad_call_is_refused_in_words(edits, kind, words):
    actual_kind, actual = words_of(attend_jax.attend, arrays(edits, lambda array: array))
    assert actual_kind is kind
    assert actual.startswith(words.removesuffix("one of ")), actual


@pytest.mark.parametrize(("edits", "kind", "words"), BAD, ids=IDS)
def test_both_packages_say_the_same_words(edits, kind, words):
    del words
    ours = words_of(attend_jax.attend, arrays(edits, lambda array: array))
    theirs = words_of(attend_torch.attend, arrays(edits, to_torch))
    assert ours == theirs
    assert ours[0] is kind


def test_a_wider_bias_of_16_bits_is_refused_alike():
    half = {name: ("bfloat16", shape) for name, (_, shape) in GOOD.items()} | {"bias": ("float16", (5, 7))}
    ours = words_of(attend_jax.attend, arrays(half, lambda array: array))
    assert ours == words_of(attend_torch.attend, arrays(half, to_torch))
    assert ours[1].endswith("got float16 with bfloat16.")


def test_the_good_call_is_good():
    assert attend_jax.attend(**arrays({}, jnp.asarray)).shape == (2, 6, 5, 13)
    assert attend_torch.attend(**arrays({}, to_torch)).shape == (2, 6, 5, 13)


def test_the_checks_hold_under_jit():
    good = arrays({"key": f32(2, 3, 7, 10)}, jnp.asarray)
    with pytest.raises(ValueError, match="the same head size"):
        jax.jit(attend_jax.attend)(**good)


OWN = [
    ({"dropout_rate": 0.5}, ValueError,
     "`dropout_rng` must be a JAX random key when weights are dropped (dropout_rate > 0); got None. Pass "
     "jax.random.key(seed), or dropout_rate=0 in evaluation."),
    ({"dropout_rate": 0.5, "dropout_rng": 0}, TypeError,
     "`dropout_rng` must be a JAX random key, as from jax.random.key(0); got int."),
    ({"dropout_rate": 0.5, "dropout_rng": jax.random.split(jax.random.key(0))}, TypeError,
     "`dropout_rng` must be one JAX random key; got key<fry> of shape (2,)."),
    ({"dropout_rate": 0.5, "dropout_rng": jnp.zeros(2)}, TypeError,
     "`dropout_rng` must be one JAX random key; got float32 of shape (2,)."),
    ({"dropout_rate": jnp.float32(0.5)}, TypeError, "`dropout_rate` must be a Python number between 0 and 1; got"),
    ({"scale": jnp.ones(2)}, TypeError, "`scale` must be one floating point number; got float32 of shape (2,)."),
    ({"scale": jnp.int32(2)}, TypeError, "`scale` must be one floating point number; got int32 of shape ()."),
    ({"precision": "very"}, ValueError, "`precision` must be None or what jax.lax.dot_general takes as precision"),
    ({"precision": 3}, ValueError, "`precision` must be None or what jax.lax.dot_general takes as precision"),
    ({"implementation": "plain"}, ValueError,
     "`implementation` must be one of 'auto', 'blockwise', 'cudnn', 'einsum', 'tokamax', 'triton'; got 'plain'."),
    ({"implementation": "cudnn"}, attend_jax.ImplementationRefused,
     "implementation='cudnn' cannot do this: takes float16 and bfloat16 only; got float32."),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "kind", "words"), OWN, ids=lambda x: str(x)[:40])
def test_what_only_jax_has_is_refused_in_words(edits, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        attend_jax.attend(**arrays(edits, jnp.asarray))
