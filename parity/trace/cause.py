"""Why a module is wrong: what its attributes say, and what its numbers do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from parity.pairs.messages import TRUTH
from parity.trace import layout
from parity.trace.attributes import STOPPED, differences
from parity.trace.judge import Arrays, Judge
from parity.trace.messages import ROOT, of
from parity.trace.results import Row

# A hint from numbers explains the difference to this much of it.
_EXPLAINED = 1e-2


def likely_cause(row: Row, backward: bool, whole: Judge, alone: Judge | None, weights: Mapping[str, np.ndarray]) -> str:
    """In words; "" if nothing tells."""
    judged = whole if alone is None or row.call.torch == ROOT else alone
    said = differences(row.call.torch_module.attributes, row.call.flax_module.attributes)
    found = _of_gradients(row, judged, whole) if backward else _of_numbers(row, judged, whole, weights)
    said = [words for words in said if backward or not words.startswith(STOPPED)]
    return "; ".join([*said, *([found] if found else [])])


def _of_gradients(row: Row, judged: Judge, whole: Judge) -> str:
    """A gradient that is zero, or a multiple of what it should be."""
    both = _both("dinput", row, judged)
    for name in row.call.parameters:
        if TRUTH + f"d({name})" in whole.torch and f"d({name})" in whole.flax:
            both[f"d({name})"] = whole.torch[TRUTH + f"d({name})"], whole.flax[f"d({name})"].astype(np.float64)
    silent = [name for name, (truth, found) in both.items() if truth.any() and not found.any()]
    if silent:
        named = ", ".join("that of its input" if not name.startswith("d(") else name for name in silent)
        return f"a stopped gradient: {named} is zero"
    return next((words for truth, found in both.values() if (words := _multiple(truth, found, "gradient"))), "")


def _of_numbers(row: Row, judged: Judge, whole: Judge, weights: Mapping[str, np.ndarray]) -> str:
    both = _both("output", row, judged)
    for truth, found in both.values():
        if truth.shape != found.shape or not np.isfinite(truth).all() or not np.isfinite(found).all():
            continue
        kind = row.call.torch_module.kind
        if words := _transposed(kind, row.call.where, whole, row, found, weights):
            return words
        if words := _constant(kind, row.call.where, truth, found, weights):
            return words
        if words := _multiple(truth, found, "output"):
            return words
    return ""


def _both(role: str, row: Row, judged: Judge) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and what was found, in torch's layout."""
    truths, found = of(judged.torch, TRUTH + role, row.call.torch), of(judged.flax, role, row.call.flax)
    both = {}
    for leaf, other in layout.pairs(truths, found) or ():
        turn = layout.way(found[other], truths[leaf])
        if turn is not None:
            both[leaf] = truths[leaf], turn(found[other]).astype(np.float64)
    return both


def _transposed(
    kind: str, path: str, whole: Judge, row: Row, found: np.ndarray, weights: Mapping[str, np.ndarray]
) -> str:
    """A square weight the other way round gives the shape that is expected."""
    weight, bias = weights.get(f"{path}.weight"), weights.get(f"{path}.bias")
    given: Arrays = of(whole.torch, TRUTH + "input", row.call.torch)
    if kind != "Linear" or weight is None or weight.shape[0] != weight.shape[1] or len(given) != 1:
        return ""
    other = next(iter(given.values())) @ weight.astype(np.float64)
    other = other + (0 if bias is None else bias.astype(np.float64))
    return "the weight is transposed" if other.shape == found.shape and _near(other, found, found) else ""


def _constant(kind: str, path: str, truth: np.ndarray, found: np.ndarray, weights: Mapping[str, np.ndarray]) -> str:
    """A difference that is the same everywhere along the batch is a bias."""
    error = found - truth
    axis = 1 if kind.startswith("Conv") or kind in ("GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d") else -1
    across = tuple(n for n in range(error.ndim) if n != axis % error.ndim)
    if error.ndim < 2 or np.prod([error.shape[n] for n in across]) < 2:
        return ""
    mean = error.mean(axis=across)
    if not _near(np.broadcast_to(error.mean(axis=across, keepdims=True), error.shape), error, error):
        return ""
    bias = weights.get(f"{path}.bias")
    if bias is not None and bias.shape == mean.shape and _near(-mean, bias.astype(np.float64), mean):
        return "the bias is left out"
    return "the difference is the same along the batch, as of a bias that is missing or another"


def _multiple(truth: np.ndarray, found: np.ndarray, what: str) -> str:
    square = float((truth * truth).sum())
    factor = float((truth * found).sum()) / square if square and truth.shape == found.shape else 1.0
    if factor and np.any(found != truth) and _near(found, factor * truth, found - truth):
        return f"the {what} is {factor:.4g} times what it should be"
    return ""


def _near(one: np.ndarray, other: np.ndarray, size: np.ndarray) -> bool:
    return bool(np.abs(one - other).max(initial=0) <= _EXPLAINED * np.abs(size).max(initial=0))
