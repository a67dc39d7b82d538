"""A port against the reference, by the bound: what the tests of honest and wrong ports share."""

from __future__ import annotations

import functools

import numpy as np
import torch

from parity.montecarlo.spread import Rounding, bound, spread
from tests.parity.montecarlo.models import MODELS, Pieces, numpy, results, rounded

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@functools.cache
def expectation(name: str, seed: int, dtype: str):
    """The arrays, the truth and the bound of a model, by the reference's own runs."""
    model = MODELS[name]
    arrays = rounded(model.arrays(seed), DTYPES[dtype])
    truth = numpy(results(model, Pieces(), arrays, torch.float64))
    reference = numpy(results(model, Pieces(), arrays, DTYPES[dtype]))
    found = spread(lambda: results(model, Pieces(), arrays, torch.float64), truth, Rounding.of(dtype), seed=seed)
    assert not found.unruled, found.unruled
    return arrays, truth, {key: bound(reference[key] - truth[key], width) for key, width in found.results.items()}


def ratios(
    name: str, pieces: Pieces, seed: int, dtype: str = "float32", change=lambda arrays: arrays
) -> dict[str, float]:
    """The largest |candidate - truth| / bound of each result."""
    arrays, truth, bounds = expectation(name, seed, dtype)
    candidate = numpy(results(MODELS[name], pieces, change(dict(arrays)), DTYPES[dtype]))
    worst = {}
    for key, allowed in bounds.items():
        error = np.abs(candidate[key] - truth[key])
        with np.errstate(divide="ignore", invalid="ignore"):
            worst[key] = float(np.nan_to_num(np.where(error == 0, 0, error / allowed), nan=np.inf).max())
    return worst
