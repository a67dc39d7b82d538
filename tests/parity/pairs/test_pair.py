"""What a user writes, and what is said of it when it makes no sense; no framework needed."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest

from parity import Input, Pair, tensors
from parity.errors import BadInput
from parity.pairs.cases import cases, cotangent, label
from parity.pairs.nested import flatten

MAKERS = {"torch": lambda: None, "flax": lambda: None}


def pair(**options):
    return Pair(**(MAKERS | {"inputs": {"x": Input("b n 3")}, "sizes": {"b": 2, "n": (5, 7)}} | options))


def test_there_is_a_case_for_each_size_and_dtype():
    found = cases("my/parity_models.py:block", pair(), ("float32", "bfloat16"))
    assert [case.name for case in found] == [
        "parity_models.block,b=2,n=5",
        "parity_models.block,b=2,n=7",
        "parity_models.block,b=2,n=5,dtype=bfloat16",
        "parity_models.block,b=2,n=7,dtype=bfloat16",
    ]
    assert [case.tensors[0].shape for case in found] == [(2, 5, 3), (2, 7, 3)] * 2
    assert found[2].dtype == found[2].tensors[0].dtype == "bfloat16"


def test_the_pairs_own_dtypes_hold_where_none_were_asked_for():
    own = pair(dtypes=("float16",), sizes={"b": 1, "n": 1})
    assert [case.dtype for case in cases("m:p", own, ())] == ["float16"]
    assert [case.dtype for case in cases("m:p", own, ("float32",))] == ["float32"]


def test_ids_masks_and_ranges():
    inputs = {
        "ids": Input("b 900", dtype="int", range=(3, 7)),
        "mask": Input("b 900", dtype="bool", std=0.25),
        "time": Input("b 900", range=(2, 3), differentiate=False),
    }
    (case,) = cases("m:p", pair(inputs=inputs, sizes={"b": 4}), ())
    arrays = tensors.make(case, 0)
    assert arrays["ids"].dtype == np.int32
    assert sorted(set(arrays["ids"].flat)) == [3, 4, 5, 6]
    assert 0.2 < arrays["mask"].mean() < 0.3
    assert 2 <= arrays["time"].min() < arrays["time"].max() < 3
    assert case.named("input") == ()
    assert case.dtype == "float32"


def test_a_cotangent_depends_on_seed_case_and_output_alone():
    one = cotangent(0, "case", "output", (3, 4), "float32")
    np.testing.assert_array_equal(one, cotangent(0, "case", "output", (3, 4), "float32"))
    others = [(1, "case", "output"), (0, "other", "output"), (0, "case", "output.1")]
    assert not any(np.array_equal(one, cotangent(*words, (3, 4), "float32")) for words in others)


@pytest.mark.parametrize("spec", ["a.b:c", "some dir/parity_x.py:c", "x:ä"])
def test_a_name_is_a_pytest_id_a_glob_and_a_file_name(spec):
    assert set(label(spec)) <= set("abcdefghijklmnopqrstuvwxyz._-")


class Named(NamedTuple):
    hidden: int
    cache: tuple


@dataclasses.dataclass
class Output:
    logits: int
    loss: None = None


def test_outputs_of_any_structure_have_names():
    assert flatten(Named(1, (2, 3))) == {"output.hidden": 1, "output.cache.0": 2, "output.cache.1": 3}
    assert flatten({"a": Output(4), "b": [5]}) == {"output.a.logits": 4, "output.b.0": 5}


WRONG = [
    (lambda: Input("b n-1"), "an Input's axes are names and sizes, as 'batch length 64'; got 'n-1' in 'b n-1'"),
    (lambda: Input("b", dtype="float32"), "an Input's dtype is None (that of the run), 'int' or 'bool'; got 'float32'"),
    (lambda: Input("b", dtype="int"), "an Input of ids needs a range=(first, beyond the last); got range=None"),
    (lambda: Input("b", dtype="bool", std=2), "a mask is True with probability std, 0 to 1; got std=2"),
    (lambda: pair(torch=3), "a Pair's torch is a function that makes the module; got 3"),
    (lambda: pair(sizes={"b": 2}), "a Pair's sizes must give every axis a size; there is none for n"),
    (lambda: pair(dtypes=("f8",)), "a Pair's dtypes are of float32, bfloat16, float16; got 'f8'"),
    (lambda: pair(sizes={"b": (1, 2), "n": (1, 2, 3)}), "must all be numbers, or sequences of one length"),
]


@pytest.mark.parametrize(("make", "words"), WRONG, ids=[words[:30] for _, words in WRONG])
def test_what_makes_no_sense_is_said_at_once(make, words):
    with pytest.raises(BadInput) as error:
        make()
    assert words in str(error.value)
