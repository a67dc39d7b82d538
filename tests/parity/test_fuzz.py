"""Random cases: the same for the same seed, all of them possible and worth comparing, and shrunk to something small."""

from __future__ import annotations

import dataclasses
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity import criterion, fuzz, tensors
from parity.attention import DTYPES, Attention


def test_the_same_seed_draws_the_same_cases():
    assert fuzz.draw(50, 7) == fuzz.draw(50, 7)
    assert fuzz.draw(20, 7) == fuzz.draw(50, 7)[:20]


def test_another_seed_draws_others():
    assert not set(fuzz.draw(50, 7)) & set(fuzz.draw(50, 8))


def test_names_are_unique_and_say_the_case():
    cases = fuzz.draw(300, 0)
    assert len({case.name for case in cases}) == 300
    assert [Attention.parse(case.name) for case in cases] == cases


def test_only_the_dtypes_asked_for():
    assert {case.dtype for case in fuzz.draw(50, 0)} == set(DTYPES)
    assert {case.dtype for case in fuzz.draw(50, 0, ("float16",))} == {"float16"}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_drawn_case_can_be_made_and_is_not_vacuous(seed):
    for attention in fuzz.draw(400, seed):
        attention.check()
        case = attention.case()
        for name, expected in criterion.attention(case, tensors.make(case, seed)).items():
            if expected.truth.size:
                assert not expected.zero or expected.vanishing, (case.name, name)


def test_draws_reach_every_argument():
    cases = fuzz.draw(400, 0)
    for field in dataclasses.fields(Attention):
        if field.name not in ("batch", "heads", "kind", "rule"):
            assert len({getattr(case, field.name) for case in cases}) > 1, field.name


def test_what_is_not_wanted_is_drawn_again():
    wanted = fuzz.draw(40, 0, wanted=lambda case: case.flash)
    assert len(wanted) == 40
    assert all(case.flash for case in wanted)
    assert wanted == [case for case in fuzz.draw(400, 0) if case.flash][:40]


def test_a_case_that_says_nothing_is_known():
    """Large scores in bfloat16 leave no digit; the same case in float32 has plenty."""
    assert not fuzz.says_something(Attention(dtype="bfloat16", std=10.0), 0)
    assert fuzz.says_something(Attention(std=3.0), 0)


PREDICATES = {
    "always": (lambda a: True, {"q_len": 1, "kv_len": 1, "heads": 1, "head_dim": 1, "value_dim": 1, "batch": 1}),
    "causal": (lambda a: bool(a.causal), {"q_len": 1, "kv_len": 1, "bias": None, "mask": None, "dtype": "float32"}),
    "bias": (lambda a: a.bias is not None, {"bias": "ij", "mask": None, "causal": False, "logsumexp": False}),
    "causal rectangle": (lambda a: a.causal and a.q_len > a.kv_len, {"q_len": 2, "kv_len": 1, "bias": None}),
    "16 bits": (lambda a: a.dtype == "bfloat16", {"dtype": "bfloat16", "bias_dtype": None, "heads": 1}),
    "mask and flash": (lambda a: a.mask and a.flash, {"flash": True, "mask": "ij", "layout": "bhnd", "std": 1.0}),
    "groups": (lambda a: 1 < a.kv_heads < a.heads, {"kv_heads": 2, "heads": 4, "batch": 1, "dropout": 0.0}),
}


@pytest.mark.parametrize("name", PREDICATES)
def test_shrinking_finds_a_minimal_case(name):
    fails, expected = PREDICATES[name]
    found = [case for case in fuzz.draw(300, 3) if fails(case)][:5]
    assert found
    for case in found:
        small = fuzz.shrink(case, fails)
        assert fails(small)
        assert {field: getattr(small, field) for field in expected} == expected
        assert not any(fails(candidate) for candidate in fuzz.simpler(small))


def test_a_case_that_nothing_simpler_explains_stays():
    case = fuzz.draw(1, 0)[0]
    assert fuzz.shrink(case, lambda other: other == case) == case


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_shrinking_ends_whatever_fails(seed, salt):
    """A predicate that says yes and no without reason, but the same each time; every step gets simpler."""
    calls = 0

    def fails(attention):
        nonlocal calls
        calls += 1
        assert calls < 2000
        return zlib.crc32(f"{salt}{attention.name}".encode()) % 3 > 0

    small = fuzz.shrink(fuzz.draw(1, seed)[0], fails)
    small.check()


def test_whatever_is_simpler_can_be_made():
    for case in fuzz.draw(60, 5):
        for candidate in fuzz.simpler(case):
            candidate.check()
            tensors.make(candidate.case(), 0)
