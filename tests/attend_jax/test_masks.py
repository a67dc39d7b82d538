"""Who may attend whom: the index rules of S3, S8, S10 and S12, and what hangs on them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attend_jax import masks
from attend_jax.problem import Problem

lengths = st.integers(1, 9)
PROBLEM = Problem(batch=2, heads=3, kv_heads=3, q_len=5, kv_len=7, head_dim=1, value_dim=1, dtype=np.dtype(np.float32))


@given(q_len=lengths, kv_len=lengths)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_each_corner_follows_its_index_rule(q_len, kv_len):
    for corner, offset in (("lower_right", kv_len - q_len), ("upper_left", 0)):
        expected = [[column <= row + offset for column in range(kv_len)] for row in range(q_len)]
        assert masks.causal_mask(q_len, kv_len, corner).tolist() == expected


@given(length=lengths)
@settings(max_examples=3, deadline=None, derandomize=True)
def test_a_square_has_one_corner(length):
    corners = [masks.causal_mask(length, length, corner).tolist() for corner in ("lower_right", "upper_left")]
    assert corners[0] == corners[1]


def test_lower_right_is_upper_left_read_backwards():
    # Turned by 180 degrees, "the last sees all" becomes "the first sees all": the complement's corner moves along.
    lower = np.asarray(masks.causal_mask(5, 7, "lower_right"))
    upper = np.asarray(masks.causal_mask(7, 5, "upper_left"))
    np.testing.assert_array_equal(lower, upper[::-1, ::-1].T)


def test_lower_right_leaves_the_first_rows_empty_where_queries_are_more():
    assert masks.causal_mask(7, 3, "lower_right").any(axis=1).tolist() == [False] * 4 + [True] * 3
    assert masks.causal_mask(7, 3, "upper_left").any(axis=1).all()


def test_without_causal_the_mask_is_all_there_is():
    mask = jnp.ones((2, 1, 1, 7), bool)
    assert masks.allowed(PROBLEM, mask) is mask
    assert masks.allowed(PROBLEM, None) is None


@pytest.mark.parametrize("shape", [(1, 1, 1, 7), (2, 1, 5, 1), (1, 3, 5, 7), (2, 3, 5, 7)])
def test_causal_and_mask_are_both_needed(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    for corner, offset in (("lower_right", 2), ("upper_left", 0)):
        actual = masks.allowed(dataclasses.replace(PROBLEM, causal=corner), jnp.asarray(mask))
        row, column = np.ogrid[:5, :7]
        np.testing.assert_array_equal(actual, mask & (column <= row + offset))


def test_true_is_lower_right_and_false_is_nothing():
    assert masks.CAUSAL == {False: None, True: "lower_right", "lower_right": "lower_right", "upper_left": "upper_left"}
