"""What the suites promise to cover, counted here independently."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from parity import suites, tensors
from parity.attention import DTYPES, Attention
from parity.criterion import attention as criterion

# The design's rules and what shows that a case exercises one.
SHOWS = {
    "S1": lambda a: a.causal is False and a.bias is None,
    "S2": lambda a: a.bias is not None,
    "S3": lambda a: a.causal is True and not a.flash and a.q_len != a.kv_len,
    "S4": lambda a: a.corner == "lower_right" and a.q_len > a.kv_len,
    "S6": lambda a: a.kind == "dropout",
    "S7": lambda a: a.kv_heads == 1 < a.heads,
    "S8": lambda a: a.causal is True and a.flash and a.q_len != a.kv_len,
    "S10": lambda a: a.causal == ("upper_left" if not a.flash else "lower_right") and a.q_len != a.kv_len,
    "S11": lambda a: a.bias is not None and a.flash,
    "S12": lambda a: a.mask is not None and a.causal,
    "S13": lambda a: 1 < a.kv_heads < a.heads,
    "S14": lambda a: a.layout == "bnhd" and a.bias is not None,
    "S15": lambda a: a.logsumexp,
    "S16": lambda a: a.kind == "exact" and 0 < a.dropout < 1,
}


def choices(attention: Attention) -> dict[int, set[str]]:
    """On each axis of AXES, the rows that this case could stand for, by its parameters alone."""
    fits = lambda row: all(getattr(attention, field) == value for field, value in row.items())  # noqa: E731
    rule = attention.rule
    modes = {"flash" if attention.flash else "plain"}
    biases = {name for name, row in suites.BIASES.items() if row.get("bias") == attention.bias}
    other = {"float32": "bfloat16"}.get(attention.dtype, "float32")
    biases = {name for name in biases if (name == "mixed") == (attention.bias_dtype == other)}
    lengths = {(13, 13): "square", (13, 17): "wide", (17, 13): "tall"}
    rules = {rule} if rule in suites.RULES and fits(suites.RULES[rule]) else set()
    rectangle = lengths.get((attention.q_len, attention.kv_len))
    return {0: rules, 1: {attention.dtype}, 2: modes, 3: biases, 4: {rectangle} if rectangle else set()}


def uncovered(cases: list[Attention]) -> set[tuple]:
    """The pairs of values of two AXES that stand in none of the cases."""
    wanted = {
        (first, one, second, other)
        for (first, ones), (second, others) in itertools.combinations(enumerate(suites.AXES), 2)
        for one, other in itertools.product(ones, others)
    }
    for case in cases:
        stands_for = choices(case)
        for first, second in itertools.combinations(range(len(suites.AXES)), 2):
            for one, other in itertools.product(stands_for[first], stands_for[second]):
                wanted.discard((first, one, second, other))
    return wanted


def test_default_covers_every_pair():
    assert uncovered(list(suites.suite("default"))) == set()


def test_the_count_of_pairs_notices_one_that_is_missing():
    pairwise = suites.pairwise()
    kept = [case for case in pairwise if not (case.rule == "S13" and case.layout == "bhnd" and case.flash)]
    assert len(kept) < len(pairwise)
    assert (0, "S13", 2, "flash") in uncovered(kept)


def test_axes_hold_what_the_design_lists():
    assert suites.AXES[1] == DTYPES
    assert set(suites.AXES[3]) == {"none", "ij", "hij", "1hij", "b1ij", "bh1j", "111j", "bhij", "mixed"}
    assert suites.AXES[4] == ("square", "wide", "tall")


def test_default_covers_every_pair_that_a_port_with_nothing_of_ours_can_run():
    """S1 to S9: lengths, causal, mode and bias form."""
    axes = {
        "causal": lambda a: a.causal,
        "mode": lambda a: a.flash,
        "bias": lambda a: a.bias,
        "lengths": lambda a: (a.q_len > a.kv_len) - (a.q_len < a.kv_len),
    }
    plain = {
        "causal",
        "flash",
        "bias",
        "rule",
        "batch",
        "heads",
        "kv_heads",
        "q_len",
        "kv_len",
        "head_dim",
        "value_dim",
        "dtype",
        "bias_dtype",
        "std",
    }
    others = [field.name for field in dataclasses.fields(Attention) if field.name not in plain]
    cases = [c for c in suites.suite("default") if all(getattr(c, f) == getattr(Attention(), f) for f in others)]
    cases = [case for case in cases if case.causal in (False, True)]
    values = ((False, True), (False, True), (None, *set(suites.BIASES) - {"none", "mixed"}), (-1, 0, 1))
    for (one, ones), (other, theirs) in itertools.combinations(zip(axes, values, strict=True), 2):
        found = {(axes[one](case), axes[other](case)) for case in cases}
        assert set(itertools.product(ones, theirs)) <= found, (one, other)


@pytest.mark.parametrize("name", ["default", "full"])
def test_every_rule_is_exercised(name):
    cases = suites.suite(name)
    assert [rule for rule, shows in SHOWS.items() if not any(shows(case) for case in cases)] == []


def test_smoke_is_in_default_and_all_are_in_full():
    names = {name: {case.name for case in suites.suite(name)} for name in suites.SUITES}
    assert names["smoke"] <= names["default"] <= names["full"]
    assert names["edge"] | names["workload"] <= names["full"]


@pytest.mark.parametrize("name", list(suites.SUITES))
def test_names_are_unique_and_say_the_case(name):
    cases = list(suites.suite(name))
    assert len({case.name for case in cases}) == len(cases) > 0
    assert [Attention.parse(case.name) for case in cases] == cases


def test_default_has_the_real_shapes_and_long_ones():
    cases = suites.suite("default")
    real = {(c.batch, c.heads, c.q_len, c.head_dim) for c in cases if c.bias == "hij" and c.heads == 8}
    assert {(8, 8, 256, 64), (256, 8, 8, 64), (8, 8, 64, 64)} <= real
    assert any(case.causal and case.batch == 256 for case in cases), "causal in time"
    assert any(case.q_len > 1024 for case in cases)
    assert any(case.kv_len > 1024 for case in cases)
    assert any(case.bias_dtype == "float32" and case.dtype == "bfloat16" and case.heads == 8 for case in cases)


def test_workload_has_every_shape_in_every_dtype():
    cases = suites.suite("workload")
    assert {(c.rule, c.dtype) for c in cases} == set(
        itertools.product({*suites.WORKLOAD, *suites.BIG_WORKLOAD}, DTYPES)
    )


@pytest.mark.parametrize(
    ("what", "shows"),
    [
        ("no batch", lambda a: a.batch == 0),
        ("no heads", lambda a: a.heads == 0),
        ("no queries", lambda a: a.q_len == 0),
        ("no keys", lambda a: a.kv_len == 0),
        ("no keys, with logsumexp", lambda a: a.kv_len == 0 and a.logsumexp),
        ("no features", lambda a: a.value_dim == 0),
        ("one query", lambda a: a.q_len == 1 and a.kv_len > 1),
        ("one key", lambda a: a.kv_len == 1 and a.q_len > 1),
        ("one head", lambda a: a.heads == 1),
        ("one feature", lambda a: a.head_dim == 1),
        ("S4 by causal", lambda a: a.corner == "lower_right" and a.q_len > a.kv_len > 0),
        ("S4 by a mask, flash", lambda a: a.values == "empty-rows" and a.flash),
        ("S5", lambda a: a.values == "-inf-bias-row" and not a.causal and not a.mask),
        ("S5 causal", lambda a: a.values == "-inf-bias-row" and a.causal),
        ("S5 mask", lambda a: a.values == "-inf-bias-row" and a.mask),
        *((f"{n} in {t}", lambda a, n=n, t=t: a.values == f"{n}-{t}") for n in ("nan", "inf") for t in
          ("query", "key", "value", "bias")),
        ("NaN behind a mask", lambda a: a.values == "masked-nan-key"),
        ("subnormals", lambda a: a.values == "subnormal"),
        ("overflow", lambda a: a.values == "near-overflow"),
        ("large scores", lambda a: a.std >= 10),
        ("p = 1", lambda a: a.dropout == 1),
        ("narrow bias", lambda a: a.bias_dtype == "bfloat16" and a.dtype == "float32"),
    ],
)  # fmt: skip
def test_edge_has(what, shows):
    assert any(shows(case) for case in suites.suite("edge")), what


@pytest.mark.parametrize("name", ["default", "edge"])
def test_every_case_can_be_made_and_is_not_vacuous(name):
    """Truth and bounds are numbers, and only what was built to be zero is (the rule of `compare`)."""
    for attention in suites.suite(name):
        attention.check()
        if attention.batch * attention.heads * attention.q_len * attention.kv_len > 3e5:
            continue  # minutes of float64 in all
        case = attention.case()
        for quantity, expected in criterion(case, tensors.make(case, 0)).items():
            finite = np.isfinite(expected.truth)
            assert np.isfinite(expected.width[finite]).all(), (case.name, quantity)
            if expected.truth.size:
                assert not expected.zero or expected.vanishing, (case.name, quantity)
