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

# What a side returns for a second call of the same instance in training, which must drop other weights.
SECOND = "_second"
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
    if "output" + SECOND in side:
        second = side["output" + SECOND].astype(np.float64) != 0
        words = "a second call of the same instance dropped the same weights"
        verdicts.append(_exactly("second_call_other_result", not np.array_equal(keep, second), words))
    different = other is not None and not np.array_equal(keep, other.astype(np.float64) != 0)
    verdicts.append(_exactly("other_rng_other_result", different, "another rng dropped the same weights"))
    # Weights that are zero without dropout, behind a mask, say nothing.
    seen = np.ones_like(keep) if evaluation is None else evaluation.astype(np.float64) != 0
    centred = np.where(seen, (keep - (1 - rate)) / np.sqrt(rate * (1 - rate)), 0)
    kept = float(centred.sum() / np.sqrt(seen.sum()))
    words = f"kept {keep[seen].mean():.4f} of the weights, expected {1 - rate:.4f}"
    verdicts.append(_by_chance("kept_fraction", kept, words))
    # Correlation of the mask with itself at every distance along an axis, all at once by the Fourier transform: a mask
    # that heads, batches or rows share, next to each other or far apart, has 1.
    for axis, name in enumerate(("batch", "heads", "rows", "columns")):
        if centred.shape[axis] > 1:
            both = np.maximum(_autocorrelation(seen.astype(np.float64), axis), 1)
            worst = float(np.abs(_autocorrelation(centred, axis) / np.sqrt(both))[1:].max())
            verdicts.append(_by_chance(f"independence_of_{name}", worst, f"weights are dropped together across {name}"))
    flat, there = (x.reshape(-1, *x.shape[2:]) for x in (centred, seen.astype(np.float64)))
    pairs = np.einsum("xij,yij->xy", flat, flat) / np.sqrt(np.maximum(np.einsum("xij,yij->xy", there, there), 1))
    if len(flat) > 1:
        worst = float(np.abs(pairs[~np.eye(len(flat), dtype=bool)]).max())
        verdicts.append(_by_chance("independence_of_pairs", worst, "two heads of the batch drop the same weights"))
    side_length = min(centred.shape[2:])
    square, shown = centred[..., :side_length, :side_length], seen[..., :side_length, :side_length]
    below = np.tri(side_length, k=-1, dtype=bool)
    both = np.maximum((shown & shown.swapaxes(-1, -2))[..., below].sum(), 1)
    mirrored = float((square * square.swapaxes(-1, -2))[..., below].sum() / np.sqrt(both))
    verdicts.append(_by_chance("independence_of_transpose", mirrored, "weights (r, c) and (c, r) are dropped together"))
    return verdicts


def _autocorrelation(x: np.ndarray, axis: int) -> np.ndarray:
    """Sum over everything of x times x rolled by n along the axis, for each n."""
    spectrum = np.abs(np.fft.fft(x, axis=axis)) ** 2
    others = tuple(n for n in range(x.ndim) if n != axis)
    sums: np.ndarray = np.fft.ifft(spectrum.sum(axis=others)).real
    return sums


def _by_chance(name: str, sigmas: float, words: str) -> Verdict:
    ratio = abs(sigmas) / SIGMAS
    reason = f"{words} ({sigmas:+.1f} standard deviations)" if ratio > 1 else ""
    return Verdict(name, "failed" if ratio > 1 else "passed", reason, max_error=abs(sigmas), bound_ratio=ratio)


def _exactly(name: str, good: bool, words: str) -> Verdict:
    return Verdict(name, "passed" if good else "failed", "" if good else words, bound_ratio=0.0 if good else np.inf)
