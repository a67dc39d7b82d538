"""Gradients of Flax parameters, as torch has them: the map of the weights, read for what is linear in them.

A side's results come a few at a time: what can be said in torch's names is, as soon as it can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from parity.weights import Entry, Tensor, WeightMap

_REAL = ("float32", "float64", "float16", "bfloat16")


# Before the path of a parameter, or buffer, in the name of what is of it.
_WORDS = ("d(", "buffer(")


class Arriving:
    """A Flax side's results, with the gradients of its parameters, d(path), and its buffers as torch has them."""

    def __init__(self, found: WeightMap, dtype: str) -> None:
        self._dtype = dtype
        self._groups = [WeightMap(entries) for entries in _grouped(found)]
        self._place = {path: n for n, group in enumerate(self._groups) for path in _flax(group)}
        self._come: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    def come(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What these, and those before, make known by torch's names."""
        found: dict[str, np.ndarray] = {}
        for name, array in arrays.items():
            word = next((word for word in _WORDS if name.startswith(word)), None)
            if word is None:
                found[name] = array
                continue
            path = name[len(word) : -1]
            if path not in self._place:  # the map leaves it out
                continue
            key = word, self._place[path]
            self._come.setdefault(key, {})[path] = array
            if len(self._come[key]) == len(_flax(self._groups[key[1]])):
                found |= self._said(key)
        return found

    def rest(self) -> dict[str, np.ndarray]:
        """What is there of entries that are not complete: a parameter without a gradient, say."""
        return {name: array for key in list(self._come) for name, array in self._said(key).items()}

    def _said(self, key: tuple[str, int]) -> dict[str, np.ndarray]:
        word, place = key
        moved = to_torch(self._groups[place], self._come.pop(key), self._dtype)
        return {f"{word}{name})": array for name, array in moved.items()}


def _flax(found: WeightMap) -> set[str]:
    return {tensor.path for entry in found.entries for tensor in entry.flax}


def _grouped(found: WeightMap) -> list[tuple[Entry, ...]]:
    """Entries that share a tensor, on either side, together: parts of one that is packed, or a sum's."""
    groups: list[tuple[set[tuple[str, str]], list[Entry]]] = []
    of: dict[tuple[str, str], int] = {}
    for entry in found.entries:
        names = {
            (side, name) for side in ("torch", "flax") for t in getattr(entry, side) for name in (t.path, *t.names)
        }
        shared = sorted({of[name] for name in names if name in of})
        mine = names, [entry]
        for place in shared:
            mine = mine[0] | groups[place][0], groups[place][1] + mine[1]
            groups[place] = set(), []
        groups.append(mine)
        of |= dict.fromkeys(mine[0], len(groups) - 1)
    return [tuple(entries) for _, entries in groups if entries]


def to_torch(found: WeightMap, gradients: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """torch's gradients from Flax's, by name.

    All transforms but one only move numbers, and move gradients alike. Two biases that are summed on the way to Flax
    have the gradient of the sum, each.
    """
    entries = tuple(_typed(entry, dtype) for whole in found.entries for entry in _apart(whole))
    lacking = (entry for entry in entries if not entry.flax or any(t.path not in gradients for t in entry.flax))
    # What is packed in torch is known when all its parts are.
    partial = {tensor.path for entry in lacking for tensor in entry.torch}
    known = tuple(entry for entry in entries if partial.isdisjoint(tensor.path for tensor in entry.torch))
    named = {tensor.path for entry in known for tensor in entry.flax}
    moved = WeightMap(known).to_torch({name: array for name, array in gradients.items() if name in named})
    # A tied one is a single parameter, under the name that torch gives it first.
    spare = {name for entry in known for tensor in entry.torch for name in tensor.names}
    return {name: array for name, array in moved.items() if name not in spare}


def _apart(entry: Entry) -> Iterator[Entry]:
    if entry.transform in ("ignored", "zero"):
        return
    if entry.transform != "sum":
        yield entry
        return
    for tensor in entry.torch:
        yield dataclasses.replace(entry, torch=(tensor,), transform="reshape")


def _typed(entry: Entry, dtype: str) -> Entry:
    def typed(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(dataclasses.replace(t, dtype=dtype if t.dtype in _REAL else t.dtype) for t in tensors)

    return dataclasses.replace(entry, torch=typed(entry.torch), flax=typed(entry.flax))
