"""Who is wrong, from verdicts alone; layouts; causes from attributes."""

from __future__ import annotations

import numpy as np
import pytest

from parity.compare import Verdict
from parity.trace import layout
from parity.trace.align import Aligned
from parity.trace.attributes import differences
from parity.trace.blame import blame, first
from parity.trace.messages import Module
from parity.trace.results import Direction, Row


def row(path, *, given=True, place=True, alone=None, back=(True, True, True)):
    def verdict(passed):
        return None if passed is None else Verdict("", "passed" if passed else "failed")

    module = Module(path, "Thing", {})
    forward = Direction(verdict(given), verdict(place), verdict(alone))
    return Row(Aligned(f"{path}#0", f"{path}#0", module, module), forward, Direction(*map(verdict, back)))


def states(*rows):
    return [found.forward.state for found in blame(rows)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(
            [
                row("a.b", place=False, alone=False),
                row("a", place=False, alone=False),
                row("", place=False, alone=False),
            ],
            ["wrong by itself", "holds a wrong one", "holds a wrong one"],
            id="the innermost is wrong",
        ),
        pytest.param(
            [row("a", given=False, place=False, alone=True), row("", place=False, alone=False)],
            ["passes it on", "wrong by itself"],
            id="what lies between the modules is the container's",
        ),
        pytest.param(
            [row("a.b", place=False, alone=False), row("a", place=True), row("", place=True, alone=True)],
            ["differs", "agrees", "agrees"],
            id="a container that agrees clears what is in it",
        ),
        pytest.param(
            [row("a", place=False), row("", place=False, alone=False)],
            ["wrong by itself", "holds a wrong one"],
            id="not run alone, but given the same",
        ),
        pytest.param(
            [
                row("a", given=False, place=False),
                row("ab", place=False, alone=False),
                row("", place=False, alone=False),
            ],
            ["differs", "wrong by itself", "holds a wrong one"],
            id="not run alone, and given something else",
        ),
    ],
)
def test_states(rows, expected):
    assert states(*rows) == expected


def test_the_first_backward_is_the_last_in_order():
    bad = (True, False, False)
    rows = blame([row("a", back=bad), row("b", back=bad), row("", back=bad)])
    found, backward = first(rows)
    assert (found.call.torch, backward) == ("b#0", True)
    rows = blame([row("a", place=False, alone=False), row("b", back=bad), row("", place=False, alone=False, back=bad)])
    found, backward = first(rows)
    assert (found.call.torch, backward) == ("a#0", False)


@pytest.mark.parametrize(
    ("torch", "flax", "turn"),
    [
        ((2, 3, 5, 7), (2, 5, 7, 3), lambda x: x.transpose(0, 2, 3, 1)),
        ((2, 3, 3, 3), (2, 3, 3, 3), lambda x: x.transpose(0, 2, 3, 1)),
        ((2, 3, 3, 3), (2, 3, 3, 3), lambda x: x),
        ((2, 5, 3), (5, 2, 3), lambda x: x.swapaxes(0, 1)),
        ((2, 5, 12), (2, 5, 3, 4), lambda x: x.reshape(2, 5, 3, 4)),
    ],
)
def test_layouts_are_found_by_shape_and_numbers(torch, flax, turn):
    array = np.random.default_rng(0).normal(size=torch)
    wanted = turn(array)
    assert wanted.shape == flax
    there, back = layout.way(array, wanted), layout.way(wanted, array)
    np.testing.assert_array_equal(there(array), wanted)
    np.testing.assert_array_equal(back(wanted), array)


def test_no_layout():
    assert layout.way(np.ones((2, 3)), np.ones((2, 4))) is None
    assert layout.pairs({"0": np.ones(3)}, {"0": np.ones(4)}) is None


@pytest.mark.parametrize(
    ("torch", "flax", "expected"),
    [
        ({"padding": "1,1"}, {"padding": "1"}, []),
        ({"padding": "same"}, {"padding": "SAME"}, []),
        ({"padding": "1,2"}, {"padding": "2,1"}, ["padding 1,2 against 2,1"]),
        ({"bias": "yes"}, {"bias": "no"}, ["bias yes against no"]),
        ({"epsilon": "1e-05"}, {"momentum": "0.9"}, []),
    ],
)
def test_attributes_that_differ(torch, flax, expected):
    assert differences(torch, flax) == expected
