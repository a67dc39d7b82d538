"""An attention case and its name are one to one, and a name that is no case is refused in words."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.attention import DTYPES, FORMS, Attention

CHARSET = re.compile(r"[A-Za-z0-9._=,-]+")
SIZES = st.integers(0, 2000)
NUMBERS = st.floats(-1e30, 1e30, allow_subnormal=False)


@st.composite
def attentions(draw):
    """Any case that can be made."""
    kv_heads, group = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    dropout, kind = draw(st.floats(0, 1)), draw(st.sampled_from(("exact", "dropout")))
    return Attention(
        batch=draw(SIZES), heads=kv_heads * group, kv_heads=kv_heads, q_len=draw(SIZES), kv_len=draw(SIZES),
        head_dim=draw(st.integers(1, 300)), value_dim=draw(SIZES), dtype=draw(st.sampled_from(DTYPES)),
        flash=draw(st.booleans()), causal=draw(st.sampled_from((False, True, "lower_right", "upper_left"))),
        bias=draw(st.sampled_from((None, *FORMS))), bias_dtype=draw(st.sampled_from((None, *DTYPES))),
        mask=draw(st.sampled_from((None, *FORMS))), scale=draw(st.none() | NUMBERS),
        layout=draw(st.sampled_from(("bhnd", "bnhd"))), logsumexp=draw(st.booleans()), dropout=dropout,
        std=draw(st.floats(0, 1e30)), values=draw(st.sampled_from(("normal", "subnormal", "inf-value"))), kind=kind,
        rule=draw(st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True)),
    )  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(attentions())
def test_a_name_says_every_parameter(attention):
    assert Attention.parse(attention.name) == attention
    assert Attention.parse(attention.name).name == attention.name


@settings(deadline=None, max_examples=300)
@given(attentions())
def test_names_are_globs_and_file_names(attention):
    assert CHARSET.fullmatch(attention.name), attention.name


@settings(deadline=None, max_examples=200)
@given(attentions(), attentions())
def test_two_cases_have_two_names(one, other):
    assert (one.name == other.name) == (one == other)


def test_each_field_changes_the_name():
    others = {
        "batch": 3, "heads": 8, "kv_heads": 2, "q_len": 5, "kv_len": 5, "head_dim": 5, "value_dim": 5,
        "dtype": "float16", "flash": True, "causal": True, "bias": "ij", "bias_dtype": "float16", "mask": "ij",
        "scale": 0.0, "layout": "bnhd", "logsumexp": True, "dropout": 0.5, "std": 2.0, "values": "sparse",
        "kind": "dropout", "rule": "S2",
    }  # fmt: skip
    assert set(others) == {field.name for field in dataclasses.fields(Attention)}
    names = {dataclasses.replace(Attention(), **{field: value}).name for field, value in others.items()}
    assert len(names | {Attention().name}) == len(others) + 1


def test_a_name_leaves_defaults_out():
    assert Attention(rule="S3", causal=True, kv_len=17).name == "S3,j=17,causal=1"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("S1,colour=red", ["'colour=red'", "KEY=VALUE", "bias_dtype"]),
        ("S1,causal", ["'causal'", "KEY=VALUE"]),
        ("S1,rule=S2", ["'rule=S2'"]),
        ("S1,i=many", ["q_len", "'many'"]),
        ("S1,flash=2", ["flash", "'2'"]),
        ("S1,scale=big", ["scale", "'big'"]),
        ("S1,dtype=float64", ["dtype must be one of float32, bfloat16, float16"]),
        ("S1,bias=ji", ["bias must be one of j, ij, hij"]),
        ("S1,mask=ji", ["mask must be one of j, ij, hij"]),
        ("S1,bias=ij,bias_dtype=int8", ["bias_dtype must be one of"]),
        ("S1,causal=middle", ["causal must be 1, lower_right or upper_left"]),
        ("S1,layout=nbhd", ["layout must be bhnd or bnhd"]),
        ("S1,d=0", ["d must be at least 1"]),
        ("S1,i=-1", ["sizes >= 0"]),
        ("S1,kv=3", ["h % kv == 0"]),
        ("S1,dropout=1.5", ["dropout must lie between 0 and 1"]),
        ("S1,dropout=nan", ["dropout must lie between 0 and 1"]),
        ("S1,kind=other", ["kind must be exact or dropout"]),
        # What would otherwise be found out by a KeyError while the tensors are made.
        ("S1,values=unheard-of", ["values"]),
        ("S1,values=nan-bias", ["values"]),
        ("S1,values=empty-row", ["values"]),
        ("S1,scale=nan", ["scale"]),
        # A name becomes a file name.
        ("../S1", ["../S1"]),
    ],
)
def test_a_name_that_is_no_case_is_refused_in_words(name, words):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        Attention.parse(name)
    for word in [*words, repr(name.split(",")[0])[1:-1]]:
        assert word in str(refusal.value)


def test_a_case_is_what_its_parameters_say():
    case = Attention(
        batch=2, heads=6, kv_heads=3, q_len=5, kv_len=7, head_dim=11, value_dim=13, bias="b1ij", mask="hij",
        bias_dtype="float32", dtype="bfloat16", logsumexp=True, dropout=0.25, layout="bnhd", causal=True, scale=0.0,
    ).case()  # fmt: skip
    assert {spec.name: (spec.shape, spec.dtype, spec.role) for spec in case.tensors} == {
        "query": ((2, 5, 6, 11), "bfloat16", "input"),
        "key": ((2, 7, 3, 11), "bfloat16", "input"),
        "value": ((2, 7, 3, 13), "bfloat16", "input"),
        "bias": ((2, 1, 5, 7), "float32", "input"),
        "mask": ((6, 5, 7), "bool", "constant"),
        "dropout_mask": ((2, 6, 5, 7), "bool", "constant"),
        "cotangent_output": ((2, 5, 6, 13), "bfloat16", "cotangent"),
        "cotangent_logsumexp": ((2, 6, 5), "float32", "cotangent"),
    }
    assert case.arguments == {
        "dropout": 0.25, "causal": True, "scale": 0.0, "layout": "bnhd", "return_logsumexp": True,
    }  # fmt: skip
    assert case.quantities == ("output", "logsumexp", "dquery", "dkey", "dvalue", "dbias")
    assert case.needs == {"bias", "mask", "dropout_mask", *case.arguments}


def test_a_default_case_needs_nothing_of_a_side():
    assert Attention().case().needs == frozenset()
    assert Attention().case().arguments == {}
