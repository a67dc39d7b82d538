"""Who may attend whom: the index rules of S3, S8, S10 and S12."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attend_torch.masks import CAUSAL, allowed, causal_mask

CPU = torch.device("cpu")
lengths = st.integers(0, 9)


@given(q_len=lengths, kv_len=lengths)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_each_corner_follows_its_index_rule(q_len, kv_len):
    for corner, offset in (("lower_right", kv_len - q_len), ("upper_left", 0)):
        expected = [[column <= row + offset for column in range(kv_len)] for row in range(q_len)]
        assert causal_mask(q_len, kv_len, corner, CPU).tolist() == expected


def test_lower_right_leaves_the_first_rows_empty_where_queries_are_more():
    assert causal_mask(7, 3, "lower_right", CPU).any(dim=1).tolist() == [False] * 4 + [True] * 3
    assert causal_mask(7, 3, "upper_left", CPU).any(dim=1).all()


def test_without_causal_the_mask_is_all_there_is():
    mask = torch.ones(7, dtype=torch.bool)
    assert allowed(5, 7, None, mask, CPU) is mask
    assert allowed(5, 7, None, None, CPU) is None


@pytest.mark.parametrize("shape", [(), (7,), (5, 1), (3, 1, 7), (2, 1, 5, 1), (2, 3, 5, 7)], ids=str)
def test_causal_and_mask_are_both_needed(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    row, column = torch.arange(5)[:, None], torch.arange(7)
    for corner, offset in (("lower_right", 2), ("upper_left", 0)):
        assert torch.equal(allowed(5, 7, corner, mask, CPU), mask & (column <= row + offset))


def test_true_is_lower_right_and_false_is_nothing():
    assert CAUSAL == {False: None, True: "lower_right", "lower_right": "lower_right", "upper_left": "upper_left"}
