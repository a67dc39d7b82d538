"""`parity compare`: plain files number by number, goldens by their bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity.goldens import file
from parity.goldens.differences import differences, distances
from parity.weights import write

GOLDENS = Path(__file__).parents[2] / "goldens"
ATTENTION, MLP = GOLDENS / "attention.safetensors", GOLDENS / "mlp.safetensors"
ONE = np.array([1, -2, 3, 0], np.float32)


@pytest.fixture
def compare(cli, tmp_path):
    def call(first, second, *options):
        paths = []
        for name, given in (("a", first), ("b", second)):
            paths.append(str(given))
            if isinstance(given, dict):
                paths[-1] = str(tmp_path / f"{name}.safetensors")
                write(paths[-1], given)
        return cli("compare", *paths, *options)

    return call


def test_equal_files_are_equal_bit_for_bit(compare):
    arrays = {"w": ONE, "b": ONE.astype(ml_dtypes.bfloat16), "ids": np.arange(3), "nan": np.array([np.nan, np.inf])}
    arrays |= {"mask": np.array([True, False]), "none": np.zeros((0, 3)), "wave": np.array([1 + 2j], np.complex64)}
    ran = compare(arrays, arrays)
    assert (ran.code, "7 of 7 tensors are equal" in ran.words) == (0, True)


PLAIN = [
    ("missing", {"v": ONE}, "w: missing in the second"),
    ("extra", {"w": ONE, "v": ONE}, "v: only in the second"),
    ("shape", {"w": ONE.reshape(2, 2)}, "w: shape (4,) and (2, 2)"),
    ("dtype", {"w": ONE.astype(np.float16)}, "w: dtype float32 and float16"),
    ("a number", {"w": ONE + np.float32([0, 0, 0.5, 0])},
     "w: 1 of 4 differ (25 %), at most by 0.5, 2097152 ulps; worst at [2]: 3 and 3.5"),
    ("a last bit", {"w": np.nextafter(ONE, np.float32(9))}, "4 of 4 differ (100 %), at most by 2.38e-07, 1 ulps"),
    ("NaN", {"w": np.where(ONE == 3, np.float32(np.nan), ONE)}, "NaN in one only: 1; worst at [2]: 3 and nan"),
    ("inf", {"w": np.where(ONE == 3, np.float32(np.inf), ONE)}, "at most by inf"),
]  # fmt: skip


@pytest.mark.parametrize(("second", "words"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN])
def test_what_differs_is_said(compare, second, words):
    ran = compare({"w": ONE}, second)
    assert ran.code == 1
    assert words in ran.words


def test_ulps_are_allowed_where_said_and_never_for_whole_numbers(compare):
    near = np.nextafter(ONE, np.float32(9))
    assert compare({"w": ONE}, {"w": near}, "--ulps", "1").code == 0
    assert compare({"w": ONE}, {"w": np.nextafter(near, np.float32(9))}, "--ulps", "1").code == 1
    assert compare({"w": np.arange(3)}, {"w": np.arange(1, 4)}, "--ulps", "1").code == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_step_is_one_ulp_anywhere_and_all_of_them_are_a_whole_number(dtype):
    eta = (
        np.finfo(dtype).smallest_subnormal if dtype != ml_dtypes.bfloat16 else ml_dtypes.finfo(dtype).smallest_subnormal
    )
    pairs = [(0, eta), (-eta, 0), (-eta, eta), (1, 1), (0.0, -0.0)]
    first, second = (np.array([pair[n] for pair in pairs], dtype) for n in (0, 1))
    assert distances(first, second)[0].tolist() == [1, 1, 2, 0, 0]
    bits = 8 * first.dtype.itemsize
    ends = np.array([np.inf], dtype), np.array([-np.inf], dtype)
    exponent = {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}[bits] if dtype != ml_dtypes.bfloat16 else 0x7F80
    assert distances(*ends)[0].tolist() == [2 * exponent]


def test_the_largest_whole_numbers_do_not_wrap():
    ends = np.iinfo(np.int64)
    (found,) = differences({"n": np.array([ends.min, 3])}, {"n": np.array([ends.max, 3])})
    assert (found.ulps, found.worst_index) == (2**64 - 1, (0,))


def test_a_golden_judges_another(compare, cli, tmp_path):
    assert compare(ATTENTION, ATTENTION).code == compare(MLP, MLP).code == 0
    other = str(tmp_path / "other.safetensors")
    wrong = ("--suite", "tiny", "--reference", "parity.mutants:causal_upper_left")
    assert cli("record", other, *wrong).code == 0
    ran = compare(ATTENTION, other)
    assert ran.code == 1
    assert "passed S1,h=2" in ran.words
    assert "failed S4,h=2" in ran.words
    assert cli("record", other, "--suite", "tiny", "--case", "S3,*", "--seed", "1").code == 0
    ran = compare(ATTENTION, other)
    assert ran.code == 1
    assert "missing in the second file" in ran.words
    assert "recorded with another cotangent_output, key, query, value: another seed?" in ran.words


def test_a_golden_judges_a_file_of_somebody_else(compare):
    golden = file.read(ATTENTION)
    own = {}
    for name, recording in golden.recordings.items():
        own |= {f"{name}/{quantity}": array.copy() for quantity, array in recording.part("reference/").items()}
    assert compare(ATTENTION, own).code == 0
    name = next(name for name in own if name.endswith("/dkey"))
    own[name] = own[name] * np.float32(1.001)
    ran = compare(ATTENTION, own, "-q")
    assert ran.code == 1
    assert "FAILED S1,h=2" in ran.words
    assert "dkey: " in ran.words


def test_a_wrong_gradient_of_a_pair_is_beyond_its_bound(compare, tmp_path):
    golden = file.read(MLP)
    (reference,) = golden.references
    first, *rest = reference.cases
    name = "reference/d(1.weight)"
    spoilt = dataclasses.replace(first, arrays=dict(first.arrays) | {name: first.arrays[name] * np.float32(1.001)})
    cases = dataclasses.replace(reference, cases=(spoilt, *rest))
    file.write(tmp_path / "b.safetensors", dataclasses.replace(golden, references=(cases,)))
    ran = compare(MLP, tmp_path / "b.safetensors")
    assert ran.code == 1
    assert "1 passed, 1 failed" in ran.words
    assert "d(1.weight): " in ran.words


def test_what_is_no_file_of_tensors_is_bad_input(compare, tmp_path):
    (tmp_path / "cut").write_bytes(ATTENTION.read_bytes()[:-9])
    for pair in ((ATTENTION, tmp_path / "none"), (tmp_path / "cut", ATTENTION), (ATTENTION, tmp_path / "cut")):
        assert compare(*pair).code == 2
