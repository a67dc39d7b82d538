"""The same numbers in another order of axes: one framework has channels first and the other last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

Way = Callable[[np.ndarray], np.ndarray]


def ways(given: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[Way]:
    """How an array of one shape may be meant by a framework that has another: as it is, channels last for first or the
    reverse, the first two axes exchanged, heads and their features as one axis.

    >>> [way(np.zeros((2, 3, 5, 7))).shape for way in ways((2, 3, 5, 7), (2, 5, 7, 3))]
    [(2, 5, 7, 3)]
    """
    if given == wanted:
        yield lambda array: array
    if len(given) > 2 and (given[0], *given[2:], given[1]) == wanted:
        yield lambda array: np.moveaxis(array, 1, -1)
    if len(given) > 2 and (given[0], given[-1], *given[1:-1]) == wanted:
        yield lambda array: np.moveaxis(array, -1, 1)
    if len(given) > 1 and (given[1], given[0], *given[2:]) == wanted:
        yield lambda array: np.swapaxes(array, 0, 1)
    if len(given) != len(wanted) and np.prod(given, dtype=int) == np.prod(wanted, dtype=int):
        yield lambda array: array.reshape(wanted)


def way(given: np.ndarray, wanted: np.ndarray) -> Way | None:
    """The way that brings an array nearest to another, the first of them if all are as near; None if there is none."""
    found, least = None, np.inf
    for each in ways(given.shape, wanted.shape):
        with np.errstate(all="ignore"):
            error = float(np.nansum(np.abs(each(given).astype(np.float64) - wanted.astype(np.float64))))
        if found is None or error < least * (1 - 1e-6):
            found, least = each, error
    return found


def pairs(torch: Mapping[str, np.ndarray], flax: Mapping[str, np.ndarray]) -> list[tuple[str, str]] | None:
    """Which array of torch's is which of Flax's, in order; one side may have more of them. None if one of the other's
    has no counterpart that it could be laid out like.

    >>> pairs({"0": np.ones((2, 3)), "1": np.ones(5)}, {"0": np.ones(5)})
    [('1', '0')]
    """
    turned = len(torch) < len(flax)
    more, fewer = (flax, torch) if turned else (torch, flax)
    rest, found = list(more), []
    for leaf, array in fewer.items():
        fitting = next((at for at, other in enumerate(rest) if any(ways(more[other].shape, array.shape))), None)
        if fitting is None:
            return None
        found.append((leaf, rest[fitting]) if turned else (rest[fitting], leaf))
        rest = rest[fitting + 1 :]
    return found
