"""From a failure to its likely cause in words: what would the candidate have to compute for its numbers to be right?

Each suspect changes the case as a wrong port would, and the truth is taken again. If the candidate's numbers lie
within the bound of that, the suspect is named. A table: one line to add one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from parity.cases import Arrays, Case
from parity.compare import Verdict
from parity.criterion import Criterion

Changed = tuple[Case, dict[str, np.ndarray]] | None
# A suspect's truth has no reference beside it, so its bound is the arithmetic alone, with room for a second rounding.
_ROOM = 6.0


def likely_cause(
    case: Case, arrays: Arrays, candidate: Arrays, verdicts: Sequence[Verdict], criterion: Criterion
) -> str:
    """The first suspect that explains all quantities, or a pattern of the numbers, or ""."""
    failed = [verdict.quantity for verdict in verdicts if verdict.status == "failed"]
    for words, change in SUSPECTS:
        changed = change(case, dict(arrays))
        if changed is None:
            continue
        # A suspect's tensor has its gradient in the candidate's own terms (transposed, scaled, none): no witness.
        edited = {"d" + name for name, array in changed[1].items() if array is not arrays.get(name)}
        rest = {name: array for name, array in candidate.items() if name not in edited}
        if _explains(*changed, rest, failed, criterion):
            return words
    return _pattern(case, arrays, candidate, failed, criterion)


def _explains(case: Case, arrays: Arrays, candidate: Arrays, failed: list[str], criterion: Criterion) -> bool:
    expectations = criterion(case, arrays)
    comparable = [
        name for name, expected in expectations.items()
        if name in candidate and candidate[name].shape == expected.truth.shape
    ]  # fmt: skip
    if not set(failed) & set(comparable):
        return False
    for name in comparable:
        expected = expectations[name]
        with np.errstate(all="ignore"):
            error = np.abs(candidate[name].astype(np.float64) - expected.truth)
            if not np.all((error <= _ROOM * expected.width) | ~np.isfinite(expected.truth)):
                return False
    return True


def _pattern(case: Case, arrays: Arrays, candidate: Arrays, failed: list[str], criterion: Criterion) -> str:
    """What the numbers themselves look like."""
    expectations = criterion(case, arrays)
    numbers = {name: candidate[name].astype(np.float64) for name in failed if name in candidate}
    whole = {name: x for name, x in numbers.items() if x.shape == expectations[name].truth.shape and x.size}
    for name, number in whole.items():
        if name.startswith("d") and not number.any():
            return f"{name} is zero everywhere: its gradient is missing (a stop_gradient, a detach, or no path to it)"
    for name, number in whole.items():
        truth = expectations[name].truth
        if np.isnan(number).any() and np.isfinite(truth).all():
            return f"{name} has {int(np.isnan(number).sum())} NaN where the truth is finite: look at rows masked to nothing"
        for factor, words in ((2.0, "twice"), (0.5, "half"), (-1.0, "minus")):
            if np.all(np.abs(number - factor * truth) <= _ROOM * expectations[name].width * max(1, abs(factor))):
                return f"{name} is {words} what it should be"
    if "output" in whole and {"mask", "causal"} & case.needs:
        expected = expectations["output"]
        wrong = np.abs(whole["output"] - expected.truth) > _ROOM * expected.width
        rows = wrong.any(axis=-1)
        if rows.any() and not whole["output"][rows].any():
            return "rows that may attend nothing are zero: here they are the mean of value (S4)"
    relative = [_relative(whole[name], expectations[name].truth) for name in whole]
    if relative and case.dtype == "float32":
        if all(2e-5 < r < 2e-3 for r in relative):
            return "relative errors near 2**-11: looks like TF32 or 16-bit products (see `precision`)"
        if all(2e-3 <= r < 2e-2 for r in relative):
            return "relative errors near 2**-8: looks like bfloat16 on the way"
    if failed and all(name.startswith("d") for name in failed):
        return f"the output agrees and {', '.join(failed)} not: look at the backward pass"
    return ""


def _relative(number: np.ndarray, truth: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(number - truth) / np.linalg.norm(truth))


def _with(case: Case, **arguments: object) -> Case:
    return dataclasses.replace(case, arguments=dict(case.arguments) | arguments)


def _without(case: Case, *names: str) -> Case:
    return dataclasses.replace(case, arguments={k: v for k, v in case.arguments.items() if k not in names})


def _causal(corner: object) -> Callable[[Case, dict[str, np.ndarray]], Changed]:
    def change(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
        return (_with(case, causal=corner), arrays) if case.arguments.get("causal") else None

    return change


def _scale(scale: Callable[[int, int], float]) -> Callable[[Case, dict[str, np.ndarray]], Changed]:
    def change(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
        return _with(case, scale=scale(arrays["query"].shape[-1], arrays["value"].shape[-1])), arrays

    return change


def _tensor(
    name: str, edit: Callable[[np.ndarray], np.ndarray | None]
) -> Callable[[Case, dict[str, np.ndarray]], Changed]:
    def change(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
        edited = edit(arrays[name]) if name in arrays else None
        return None if edited is None else (case, arrays | {name: edited})

    return change


def _transposed(array: np.ndarray) -> np.ndarray | None:
    square = array.ndim >= 2 and array.shape[-1] == array.shape[-2]
    return np.ascontiguousarray(array.swapaxes(-1, -2)) if square else None


def _scaled_bias(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
    if "bias" not in arrays:
        return None
    scale = case.arguments.get("scale")
    scale = arrays["query"].shape[-1] ** -0.5 if scale is None else scale
    return case, arrays | {"bias": (arrays["bias"] * arrays["bias"].dtype.type(scale)).astype(arrays["bias"].dtype)}


def _kv_heads_in_turn(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
    axis = 1 if case.arguments.get("layout", "bhnd") == "bhnd" else 2
    groups = arrays["query"].shape[axis] // max(arrays["key"].shape[axis], 1)
    if groups < 2 or arrays["key"].shape[axis] < 2:
        return None
    repeated = {name: np.concatenate([arrays[name]] * groups, axis) for name in ("key", "value")}
    return case, arrays | repeated


def _not_rescaled(case: Case, arrays: dict[str, np.ndarray]) -> Changed:
    return (_with(case, dropout=1e-12), arrays) if case.arguments.get("dropout", 1) < 1 else None


SUSPECTS: tuple[tuple[str, Callable[[Case, dict[str, np.ndarray]], Changed]], ...] = (
    ("causal is aligned to the upper left instead of the lower right corner", _causal("upper_left")),
    ("causal is aligned to the lower right instead of the upper left corner", _causal("lower_right")),
    ("causal is ignored", _causal(False)),
    ("the bias is ignored", _tensor("bias", np.zeros_like)),
    ("the bias is transposed", _tensor("bias", _transposed)),
    ("the bias is subtracted", _tensor("bias", np.negative)),
    ("the bias is scaled with the scores; it is added after the scale (S2)", _scaled_bias),
    ("the mask is ignored", _tensor("mask", np.ones_like)),
    ("the mask is inverted: True = attend", _tensor("mask", np.logical_not)),
    ("the default scale is used instead of the given one", lambda case, arrays: (_without(case, "scale"), arrays)),
    ("the scale is missing", _scale(lambda d, e: 1.0)),
    ("the scale is applied twice", _scale(lambda d, e: 1 / d)),
    ("the scale is that of value's head size", _scale(lambda d, e: max(e, 1) ** -0.5)),
    ("grouped heads are taken in turn; query head n reads key head n // group (S13)", _kv_heads_in_turn),
    ("dropout_mask is ignored", lambda case, arrays: (_without(case, "dropout"), {k: v for k, v in arrays.items() if k != "dropout_mask"})),
    ("dropout_mask is inverted: True = keep", _tensor("dropout_mask", np.logical_not)),
    ("kept weights are not divided by 1 - dropout", _not_rescaled),
    ("the gradient through the log-sum-exp is dropped", _tensor("cotangent_logsumexp", np.zeros_like)),
)  # fmt: skip
