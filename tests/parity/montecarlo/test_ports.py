"""Small models: honest ports by another algorithm are accepted, each planted fault is rejected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.montecarlo.spread import Rounding, bound, spread
from tests.parity.montecarlo.faults import FAULTS, same
from tests.parity.montecarlo.judging import ratios
from tests.parity.montecarlo.models import MODELS, Other, Pieces, numpy, results, rounded


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_an_honest_port_by_another_algorithm_is_accepted(model, dtype):
    for seed in range(6):
        found = ratios(model, Other(), seed, dtype)
        assert max(found.values()) < 0.75, found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_the_reference_itself_is_accepted(model, dtype):
    """By half at most, for its own error stands twice in the bound."""
    assert max(ratios(model, Pieces(), 0, dtype).values()) <= 0.5


@pytest.mark.parametrize("fault", FAULTS, ids=[f"{row[0]}-{row[4]}" for row in FAULTS])
def test_a_planted_fault_is_rejected(fault):
    model, pieces, change, structural, _ = fault
    for seed in range(2):
        assert max(ratios(model, pieces(), seed, "float32", change).values()) > 2
        if structural:
            assert max(ratios(model, pieces(), seed, "bfloat16", change).values()) > 1.5


def test_every_model_has_faults_and_the_faults_are_of_many_kinds():
    assert {row[0] for row in FAULTS} == set(MODELS)
    assert len({row[4] for row in FAULTS}) > 20
    assert all(row[1] is not Pieces or row[2] is not same for row in FAULTS), "a fault that changes nothing"


def test_the_bound_does_not_grow_without_need():
    """Of a transformer of depth 4 in float32 the bound is below 1e-5 of each result's size."""
    model = MODELS["transformer_4"]
    arrays = rounded(model.arrays(0), torch.float32)
    truth = numpy(results(model, Pieces(), arrays, torch.float64))
    found = spread(lambda: results(model, Pieces(), arrays, torch.float64), truth, Rounding.of("float32"))
    for name, width in found.results.items():
        assert np.median(bound(np.zeros(1), width)) < 1e-5 * np.sqrt(np.mean(truth[name] ** 2))
