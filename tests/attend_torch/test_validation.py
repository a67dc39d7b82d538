"""Bad calls are refused before any compute. tests/attend_jax/test_validation.py holds both packages to one table of
words; here stand the words that are torch's own, and those that decide whether a broadcast of torch passes."""

from __future__ import annotations

import re

import pytest
import torch

from attend_torch import attend

GOOD = {"query": torch.zeros(2, 6, 5, 11), "key": torch.zeros(2, 3, 7, 11), "value": torch.zeros(2, 3, 7, 13)}
SCORES = "(batch, heads, q_len, kv_len) = (2, 6, 5, 7)"


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


BAD = [
    ({"query": [[0.0]]}, TypeError, "`query` must be a torch.Tensor; got list."),
    ({"query": zeros(5, 11)}, ValueError, "`query` must have 4 axes (b h n d); got shape (5, 11)."),
    ({"key": zeros(2, 3, 7, 11, dtype=torch.int64)}, TypeError, "`key` must be floating point; got torch.int64."),
    ({"value": zeros(2, 3, 7, 13, dtype=torch.bfloat16)}, TypeError,
     "must share one dtype; `query` has torch.float32, `value` torch.bfloat16."),
    # torch would stretch each of these.
    ({"key": zeros(1, 3, 7, 11), "value": zeros(1, 3, 7, 13)}, ValueError,
     "the batch sizes must be equal, a batch of 1 is not stretched; got query (2, 6, 5, 11), key (1, 3, 7, 11)"),
    ({"value": zeros(2, 3, 1, 13)}, ValueError, "key and value must have the same length; got"),
    ({"key": zeros(2, 3, 7, 1)}, ValueError, "query and key must have the same head size; got"),
    ({"value": zeros(2, 1, 7, 13)}, ValueError, "key and value must have the same number of heads; got"),
    ({"query": zeros(2, 6, 1, 11), "bias": zeros(4, 7)}, ValueError,
     "`bias` must broadcast to (batch, heads, q_len, kv_len) = (2, 6, 1, 7) without enlarging it; got shape (4, 7)."),
    ({"bias": zeros(1, 1, 6, 5, 7)}, ValueError, f"`bias` must broadcast to {SCORES} without enlarging it; got shape"),
    ({"bias": zeros(5, 7, dtype=torch.float64)}, TypeError,
     "`bias` must have query's dtype, a narrower one, or float32 with 16-bit inputs; got torch.float64 with torch."),
    ({"bias": zeros(5, 7, dtype=torch.bool)}, TypeError, "A boolean mask goes in as `mask`."),
    ({"mask": zeros(5, 7)}, TypeError, "`mask` must be boolean (True = attend; an additive mask is a `bias`); got "),
    ({"mask": [True]}, TypeError, "`mask` must be a torch.Tensor or None; got list."),
    ({"mask": zeros(6, 7, dtype=torch.bool)}, ValueError, f"`mask` must broadcast to {SCORES}"),
    ({"dropout_mask": zeros(2, 6, 5, 7, dtype=torch.bool)}, ValueError, "`dropout_mask` drops weights in training"),
    ({"dropout_mask": zeros(5, 7, dtype=torch.bool), "dropout_rate": 0.5}, ValueError,
     f"`dropout_mask` must have shape {SCORES}; got (5, 7)."),
    ({"dropout_rate": 2}, ValueError, "`dropout_rate` must lie between 0 and 1; got 2."),
    ({"scale": torch.tensor(1.0)}, TypeError, "`scale` must be a number or None (head_dim ** -0.5); got Tensor."),
    ({"implementation": "einsum"}, ValueError, "`implementation` must be one of 'plain', 'fused'; got 'einsum'."),
]  # fmt: skip


@pytest.mark.parametrize("implementation", ["plain", "fused"])
@pytest.mark.parametrize(("edits", "kind", "words"), BAD, ids=[words[:50] for *_, words in BAD])
def test_a_bad_call_is_refused_in_words(implementation, edits, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        attend(**({"implementation": implementation} | GOOD | edits))


def test_the_good_call_is_good():
    assert attend(**GOOD).shape == (2, 6, 5, 13)


@pytest.mark.parametrize("rate", [0, 0.0, 1, 1.0])
def test_the_ends_of_the_range_of_dropout_are_in_it(rate):
    assert attend(**GOOD, dropout_rate=rate).shape == (2, 6, 5, 13)


@pytest.mark.parametrize(
    ("query", "bias", "good"),
    [
        (torch.float32, torch.bfloat16, True),
        (torch.float32, torch.float16, True),
        (torch.bfloat16, torch.float32, True),
        (torch.float16, torch.float32, True),
        (torch.float64, torch.float32, True),
        (torch.bfloat16, torch.float16, False),
        (torch.float16, torch.float64, False),
        (torch.float32, torch.float64, False),
    ],
)
def test_a_bias_is_narrower_or_of_query_dtype_or_float32(query, bias, good):
    tensors = {name: x.to(query) for name, x in GOOD.items()} | {"bias": zeros(5, 7, dtype=bias)}
    if good:
        assert attend(**tensors).dtype == query
    else:
        with pytest.raises(TypeError, match="`bias` must have query's dtype"):
            attend(**tensors)
