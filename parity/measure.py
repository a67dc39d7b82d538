"""The numbers of one quantity, block by block: a large tensor costs the memory of its errors, at the cache's speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.criterion import ARITHMETIC_FACTOR, DEPARTURE_FACTOR, REFERENCE_FACTOR, Expectation
from parity.picture import Picture, draw
from parity.tensors import AT_ONCE, dtype_of

Index = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a verdict is made of.

    `worst` is where error / bound is largest, `ratio` and `bound` are those there; the bound is None if it is NaN
    anywhere. `odd_reference` is the first place where the reference has NaN or inf and the truth has not, or the
    reverse; `departs` is where it is furthest beyond what its arithmetic explains, off by `departs_by`. `meaningless`:
    for most elements the bound is wider than the spread of the truth, so that a shuffled tensor could pass.
    """

    worst: Index
    ratio: float
    bound: float | None
    error: float
    reference_error: float
    mismatched: int
    odd_reference: Index | None
    departs: Index | None
    departs_by: float
    meaningless: bool
    picture: Picture


def measure(expected: Expectation, theirs: Expectation, reference: np.ndarray, candidate: np.ndarray) -> Numbers:
    """Of two arrays of the expected shape and dtype, not empty. `theirs` is what is expected of the reference."""
    shape = expected.truth.shape
    whole = len(expected.shared) == len(shape)  # one largest error of the reference, whatever the axes are

    def laid(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1) if whole else array

    def laid_all(one: Expectation) -> Expectation:
        axes = (0,) if whole else one.shared
        return dataclasses.replace(one, truth=laid(one.truth), width=laid(one.width), shared=axes)

    flat = laid_all(expected)
    flat_theirs = flat if theirs is expected else laid_all(theirs)
    with np.errstate(all="ignore"):
        first = _reference(flat, flat_theirs, laid(reference))
        second = _candidate(flat, first.own, laid(candidate))
        spread = _spread(flat)
        limit = float(_bound(flat, first.own, ...)[second.worst])
        return Numbers(
            worst=_index(second.worst, flat, shape),
            ratio=float(second.ratio[second.worst]),
            bound=None if second.nan else limit,
            error=float(second.error.max()),
            reference_error=first.error,
            mismatched=second.mismatched,
            odd_reference=None if first.odd is None else _index(first.odd, flat, shape),
            departs=None if first.departs is None else _index(first.departs, flat, shape),
            departs_by=first.departs_by,
            meaningless=_mostly_wider(flat, first.own, spread),
            picture=draw(second.ratio.reshape(shape), second.error.reshape(shape), expected.truth, expected.dtype),
        )


@dataclasses.dataclass
class _Reference:
    """The reference's own error: at its largest over the shared axes, anywhere, and beyond its arithmetic."""

    own: np.ndarray
    error: float = 0.0
    odd: Index | None = None
    departs: Index | None = None
    departs_by: float = 0.0
    beyond: float = 0.0


def _reference(expected: Expectation, theirs: Expectation, reference: np.ndarray) -> _Reference:
    truth = theirs.truth
    found = _Reference(np.zeros([1 if axis in expected.shared else n for axis, n in enumerate(truth.shape)]))
    for block in _blocks(truth):
        right = truth[block]
        finite, odd, error = _errors(reference[block], right, theirs.dtype)
        if odd is not None and found.odd is None:
            found.odd = _first(odd, block)
        if finite is not None:
            error[~finite] = 0
        own = np.max(error, axis=expected.shared, keepdims=True, initial=0)
        if 0 in expected.shared:
            np.maximum(found.own, own, out=found.own)
        else:
            found.own[block] = own
        found.error = float(np.maximum(found.error, error.max()))
        beyond = error - DEPARTURE_FACTOR * theirs.width[block]
        if finite is not None:
            beyond[~finite] = -1
        if beyond.max() > found.beyond:
            at = np.unravel_index(int(beyond.argmax()), beyond.shape)
            found.beyond, found.departs_by = float(beyond[at]), float(error[at])
            found.departs = _first(at, block)
    return found


@dataclasses.dataclass
class _Candidate:
    """The candidate's errors, and how they stand to the bound, element by element."""

    error: np.ndarray
    ratio: np.ndarray
    worst: Index = ()
    mismatched: int = 0
    nan: bool = False


def _candidate(expected: Expectation, own: np.ndarray, candidate: np.ndarray) -> _Candidate:
    truth = expected.truth
    found = _Candidate(np.empty(truth.shape), np.empty(truth.shape))
    for block in _blocks(truth):
        finite, odd, error = _errors(candidate[block], truth[block], expected.dtype)
        bound = _bound(expected, own, block)
        if finite is not None:
            error[~finite] = 0
            bound[~finite] = np.inf
        if odd is not None:
            error[odd] = np.inf
        ratio = np.divide(error, bound, out=found.ratio[block])
        ratio[error == 0] = 0
        if odd is not None:
            ratio[odd] = np.inf
        found.error[block] = error
        found.mismatched += int(np.count_nonzero(ratio > 1))
        found.nan = found.nan or bool(np.isnan(bound).any())
    found.worst = tuple(int(n) for n in np.unravel_index(int(np.argmax(found.ratio)), truth.shape))
    return found


def _blocks(array: np.ndarray) -> Iterator[slice]:
    """Along the first axis."""
    rows = max(1, AT_ONCE * array.shape[0] // array.size)
    for start in range(0, array.shape[0], rows):
        yield slice(start, start + rows)


def _errors(
    array: np.ndarray, truth: np.ndarray, dtype: str
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Where the truth, as its dtype has it, is finite: None for everywhere. Where NaN, +inf or -inf stands in one and
    not in the other: None for nowhere. And |array - truth|."""
    array = array.astype(np.float64)
    right = truth.astype(dtype_of(dtype))  # overflow becomes inf
    finite, error = np.isfinite(right), np.abs(array - truth)
    if finite.all():
        if np.isfinite(array).all():
            return None, None, error
        return None, ~np.isfinite(array), error
    right = right.astype(np.float64)
    odd = (np.isnan(array) != np.isnan(right)) | ((np.isinf(array) | np.isinf(right)) & (array != right))
    return finite, odd if odd.any() else None, error


def _bound(expected: Expectation, own: np.ndarray, block: Any) -> np.ndarray:
    """A new array; of all with `...`."""
    part = own if own.shape[0] == 1 and len(own) != len(expected.truth) else own[block]
    found: np.ndarray = REFERENCE_FACTOR * part + ARITHMETIC_FACTOR * expected.width[block]
    return found


def _spread(expected: Expectation) -> float:
    """The standard deviation of what is finite in the truth; of a single number its size."""
    count, mean, square = 0, 0.0, 0.0
    for block in _blocks(expected.truth):
        part = expected.truth[block]
        finite = np.isfinite(part.astype(dtype_of(expected.dtype)))
        part = part if finite.all() else part[finite]
        if not part.size:
            continue
        # Chan, Golub and LeVeque's way to add up what parts know.
        own, difference = float(part.mean()), float(part.mean()) - mean
        square += float(np.square(part - own).sum()) + difference**2 * count * part.size / (count + part.size)
        mean += difference * part.size / (count + part.size)
        count += part.size
    return abs(mean) if count == 1 else (square / max(count, 1)) ** 0.5


def _mostly_wider(expected: Expectation, own: np.ndarray, spread: float) -> bool:
    """Whether the median of the bound is above the spread."""
    wider = count = 0
    for block in _blocks(expected.truth):
        bound = _bound(expected, own, block)[np.isfinite(expected.truth[block].astype(dtype_of(expected.dtype)))]
        wider, count = wider + int(np.count_nonzero(bound > spread)), count + bound.size
    if 2 * wider != count or not count:
        return 2 * wider > count
    finite = np.isfinite(expected.truth.astype(dtype_of(expected.dtype)))
    return bool(np.median(np.broadcast_to(_bound(expected, own, ...), finite.shape)[finite]) > spread)


def _first(where: Any, block: slice) -> Index:
    """An index in a block, or that of the first True in it, as one in the whole array."""
    at = where if isinstance(where, tuple) else np.argwhere(where)[0]
    return (int(at[0]) + block.start, *(int(n) for n in at[1:]))


def _index(at: Index, flat: Expectation, shape: tuple[int, ...]) -> Index:
    """In the tensor's own shape."""
    place = np.ravel_multi_index(at, flat.truth.shape)
    return tuple(int(n) for n in np.unravel_index(place, shape))
