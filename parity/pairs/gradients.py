"""Gradients of Flax parameters, as torch has them: the map of the weights, read for what is linear in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from parity.weights import Entry, Tensor, WeightMap

_REAL = ("float32", "float64", "float16", "bfloat16")


def to_torch(found: WeightMap, gradients: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """torch's gradients from Flax's, by name.

    All transforms but one only move numbers, and move gradients alike. Two biases that are summed on the way to Flax
    have the gradient of the sum, each.
    """
    entries = tuple(_typed(entry, dtype) for whole in found.entries for entry in _apart(whole))
    known = tuple(entry for entry in entries if entry.flax and all(tensor.path in gradients for tensor in entry.flax))
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
