"""How calls follow each other in a program of the bench."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.bench import rows, worker
from parity.bench.rows import Row

SHORT = next(case for case in rows.GPU if case.rule == "middle")
LONG = next(case for case in rows.GPU if case.rule == "square")


def test_short_calls_are_chained_and_long_ones_are_not() -> None:
    assert Row(SHORT).flops(rows.FORWARD) < worker.SHORT < Row(LONG).flops(rows.FORWARD)
    assert (worker.links(SHORT), worker.links(LONG)) == (worker.LINKS, 1)


def test_an_output_of_another_size_cannot_be_the_next_query() -> None:
    assert worker.links(dataclasses.replace(SHORT, value_dim=SHORT.head_dim // 2)) == 1


@pytest.mark.parametrize("bias_gradient", [True, False])
def test_every_result_is_the_next_calls_input(bias_gradient: bool) -> None:
    """Or a compiler would be free to leave out what nobody reads."""
    arrays = {name: np.zeros(1) for name in ("query", "key", "value", "bias", "cotangent_output")}
    results = {name: np.ones(1) for name in ("output", "dquery", "dkey", "dvalue", "dbias")}
    if not bias_gradient:
        del results["dbias"]
    found = worker.following(arrays, results)
    assert found.keys() == arrays.keys()
    assert {id(found[name]) for name in found} >= {id(result) for result in results.values()}
    assert found["cotangent_output"] is results["output"]


def test_forward_the_output_is_the_next_query() -> None:
    arrays = {name: np.zeros(1) for name in ("query", "key", "value", "cotangent_output")}
    output = np.ones(1)
    assert worker.following(arrays, {"output": output}) == {**arrays, "query": output}
