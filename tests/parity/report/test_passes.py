"""What is said while a case takes long."""

from __future__ import annotations

from parity.messages import Pass
from parity.report.passes import Passes


def said(seconds, *, log):
    clock, words = [0.0], []
    passes = Passes(words.append, log=log, clock=lambda: clock[0])
    for number, length in enumerate([0.0, *seconds]):
        clock[0] += length
        passes(Pass(number, len(seconds)))
    return words


def test_the_rest_is_estimated_by_the_longest_pass_but_the_first():
    assert said([9, 4, 3], log=False) == [
        "pass 1 of 3 in float64",
        "pass 2 of 3 in float64, about 4 s to go",
        "pass 3 of 3 in float64, about 0 s to go",
    ]


def test_a_log_gets_a_line_now_and_then_and_none_of_what_is_soon_over():
    assert said([60.0] + [0.1] * 9, log=True) == []
    lines = said([3.0] * 10, log=True)
    assert lines[0] == "pass 2 of 10 in float64, about 24 s to go"
    assert len(lines) == 4
