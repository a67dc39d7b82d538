"""The picture of an error: each letter and each bin against a count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parity.compare import judge
from parity.picture import BLOCKS, draw
from tests.parity.report.samples import SHAPE, expectation


def grid(ratio):
    return draw(np.asarray(ratio, float), np.zeros(np.shape(ratio)), np.ones(np.shape(ratio)), "float32").grid


def histogram(error, truth, dtype="float32"):
    error, truth = np.atleast_1d(np.asarray(error, float)), np.atleast_1d(np.asarray(truth, float))
    return dict(draw(error, error, truth, dtype).histogram)


@pytest.mark.parametrize(
    ("ratio", "letter"),
    [
        (0, "."), (1e-9, "a"), (2.0**-8, "a"), (1.001 * 2.0**-8, "b"), (0.5, "h"), (0.501, "i"), (1, "i"), (1.001, "j"),
        (2, "j"), (2.1, "k"), (2.0**15, "x"), (2.0**15 + 1, "y"), (1e300, "y"), (math.inf, "z"),
    ],
)  # fmt: skip
def test_a_letter_is_a_factor_of_two_and_i_reaches_the_bound(ratio, letter):
    assert grid([[ratio]]) == (letter,)


def test_a_small_tensor_has_a_block_an_element():
    assert grid([[0, 1, 2], [4, 0.5, math.inf]]) == (".ij", "khz")


def test_the_largest_of_a_block_counts_wherever_it_is():
    for at in np.ndindex(5, 100):
        ratio = np.zeros((5, 100))
        ratio[at] = 1
        rows = grid(ratio)
        assert (len(rows), len(rows[0])) == (5, BLOCKS)
        assert rows[at[0]].count("i") == "".join(rows).count("i") == 1
        assert abs(rows[at[0]].index("i") - at[1] * BLOCKS / 100) <= 1


@pytest.mark.parametrize(
    ("shape", "size", "groups", "folded"),
    [
        ((), (1, 1), 1, "1 row × 1 column"),
        ((7,), (1, 7), 1, "1 row × 7 columns"),
        ((5, 7), (5, 7), 1, "5 rows × 7 columns"),
        ((2, 3, 5, 7), (6 * 4, 7), 6, "2·3·5 rows × 7 columns"),
        ((2, 3, 2, 7), (6 * 2, 7), 6, "2·3·2 rows × 7 columns"),
        ((29, 3, 31), (BLOCKS, BLOCKS), 1, "29·3 rows × 31 columns"),
        ((13, 5, 7), (13, 7), 13, "13·5 rows × 7 columns"),
    ],
)
def test_leading_axes_are_folded_into_rows(shape, size, groups, folded):
    picture = draw(np.zeros(shape), np.zeros(shape), np.ones(shape), "float32")
    assert (len(picture.grid), len(picture.grid[0])) == size
    assert (picture.groups, picture.folded) == (groups, folded)


def test_no_block_straddles_two_groups():
    ratio = np.zeros((2, 3, 17, 5))
    ratio[1, 0] = 1
    assert grid(ratio) == (".....",) * 12 + ("iiiii",) * 4 + (".....",) * 8


@pytest.mark.parametrize(
    ("dtype", "truth", "ulp"),
    [
        ("float32", 1.0, 2.0**-23), ("float32", 1.99, 2.0**-23), ("float32", -2.0, 2.0**-22),
        ("float32", 0.0, 2.0**-149), ("float32", 1e-40, 2.0**-149), ("bfloat16", 1.0, 2.0**-7),
        ("float16", 1.0, 2.0**-10), ("float16", 0.0, 2.0**-24), ("float64", 1.0, 2.0**-52),
    ],
)  # fmt: skip
def test_an_ulp_is_that_of_the_truth_in_its_dtype(dtype, truth, ulp):
    factors = [0, 0.01, 0.5, 0.51, 1, 1.01, 2, 1e12, math.inf]
    counts = histogram(np.multiply(factors, ulp), np.full(len(factors), truth), dtype)
    assert counts == {"exact": 1, "-4": 1, "-1": 1, "0": 2, "1": 2, "30": 1, "nan": 1}


def test_numpy_agrees_on_ulps():
    truth = np.random.default_rng(0).standard_normal(999).astype(np.float32)
    counts = histogram(np.spacing(np.abs(truth)), truth)
    assert counts == {"0": 999}


def test_a_verdict_with_numbers_has_a_picture_and_one_without_has_none():
    expected = expectation()
    reference = expected.truth.astype(np.float32)
    wrong = reference.copy()
    wrong[1, 2, 4, 3] = np.nan
    for candidate, letters in ((reference, set("abcdefghi.")), (wrong, set("abcdefghi.z"))):
        picture = judge("output", expected, reference, candidate).picture
        assert set("".join(picture.grid)) <= letters
        assert sum(count for _, count in picture.histogram) == math.prod(SHAPE)
    assert picture.grid[-1] == picture.grid[-1][:3] + "z" + picture.grid[-1][4:]
    assert dict(picture.histogram)["nan"] == 1
    assert judge("output", expected, reference, None).picture is None
