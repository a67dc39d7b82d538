"""Dropout by the native generators, judged by its statistics (S6); the same weights dropped on both sides is S16.

In these cases value is the identity, so the output is the matrix of dropped weights itself, and which were kept can
be read off it. With that known, output and gradients are judged exactly, the gradients also showing that the
backward pass drops the same weights. What is left are properties of the mask alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.cases import Arrays, Case
from parity.compare import Verdict, judge
from parity.criterion import Criterion, Expectation

# Two-sided probability 2e-9 a statistic: no false alarm in a lifetime of runs, and with the thousands of weights of a
# case still a difference of a few percent in what is kept.
SIGMAS = 6.0


def judge_dropout(
    case: Case, arrays: Arrays, reference: Arrays, candidate: Arrays, criterion: Criterion
) -> list[Verdict]:
    """All verdicts on a dropout case. A reference that fails its own statistics makes them inconclusive."""
    departs = [verdict for verdict in _statistics(case, reference) if verdict.status == "failed"]
    if departs:
        return [Verdict(departs[0].quantity, "inconclusive", f"the reference: {departs[0].reason}")]
    if "output" not in candidate or candidate["output"].shape != reference["output"].shape:
        return [Verdict("output", "failed", "the candidate has no output of the expected shape", bound_ratio=np.inf)]
    mine, theirs = (_known(case, arrays, side, criterion) for side in (candidate, reference))
    # The two sides dropped different weights, so each has a truth of its own.
    verdicts = [judge(n, mine[n], reference.get(n), candidate.get(n), expected_of_reference=theirs[n]) for n in mine]
    evaluation = criterion(dataclasses.replace(case, arguments=_without_dropout(case)), arrays)["output"]
    verdicts.append(judge("evaluation", evaluation, reference["output_eval"], candidate.get("output_eval")))
    return verdicts + _statistics(case, candidate)


def _known(case: Case, arrays: Arrays, side: Arrays, criterion: Criterion) -> Mapping[str, Expectation]:
    return criterion(case, dict(arrays) | {"dropout_mask": side["output"] != 0})


def _without_dropout(case: Case) -> dict[str, object]:
    return {name: value for name, value in case.arguments.items() if name != "dropout"}


def _statistics(case: Case, side: Arrays) -> list[Verdict]:
    """Properties of the mask, each as a ratio to what chance explains."""
    output = side["output"].astype(np.float64)
    if output.ndim != 4:
        return [Verdict("kept_fraction", "failed", f"output has shape {output.shape}", bound_ratio=np.inf)]
    rate = case.arguments["dropout"]
    keep = output != 0
    again, other, evaluation = (side.get(name) for name in ("output_again", "output_other", "output_eval"))
    verdicts = [
        _exactly("same_rng_same_result", again is not None and np.array_equal(side["output"], again),
                 "the same rng gave another result"),
    ]  # fmt: skip
    if rate == 1:
        return verdicts
    different = other is not None and not np.array_equal(keep, other.astype(np.float64) != 0)
    verdicts.append(_exactly("other_rng_other_result", different, "another rng dropped the same weights"))
    # Weights that are zero without dropout, behind a mask, say nothing.
    seen = np.ones_like(keep) if evaluation is None else evaluation.astype(np.float64) != 0
    centred = np.where(seen, (keep - (1 - rate)) / np.sqrt(rate * (1 - rate)), 0)
    kept = float(centred.sum() / np.sqrt(seen.sum()))
    words = f"kept {keep[seen].mean():.4f} of the weights, expected {1 - rate:.4f}"
    verdicts.append(_by_chance("kept_fraction", kept, words))
    # Correlation between neighbours along each axis: a mask shared by heads, batches or rows has 1.
    for axis, name in enumerate(("batch", "heads", "rows", "columns")):
        worst = 0.0
        for shift in range(1, min(centred.shape[axis], 4)):
            product = centred * np.roll(centred, shift, axis)
            both = (seen & np.roll(seen, shift, axis)).sum()
            worst = max(worst, abs(float(product.sum() / np.sqrt(max(both, 1)))))
        words = f"weights are dropped together across {name}"
        verdicts.append(_by_chance(f"independence_of_{name}", worst, words))
    return verdicts


def _by_chance(name: str, sigmas: float, words: str) -> Verdict:
    ratio = abs(sigmas) / SIGMAS
    reason = f"{words} ({sigmas:+.1f} standard deviations)" if ratio > 1 else ""
    return Verdict(name, "failed" if ratio > 1 else "passed", reason, max_error=abs(sigmas), bound_ratio=ratio)


def _exactly(name: str, good: bool, words: str) -> Verdict:
    return Verdict(name, "passed" if good else "failed", "" if good else words, bound_ratio=0.0 if good else np.inf)
