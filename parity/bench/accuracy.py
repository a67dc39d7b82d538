"""How far a contender's results are from the float64 truth, on a sample of places that is small at any length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity import criterion
from parity.attention import Attention
from parity.bench import inputs
from parity.bench.rows import BOTH

# At most so many queries of a head: the truth holds them against all keys in float64.
QUERIES = 128


@dataclasses.dataclass(frozen=True)
class Error:
    """The largest |result - truth| of a quantity, absolute and in roundings: over u*A + eta*A0 of docs/criterion.md,
    what arithmetic alone may be off by to first order. An honest computation in its dtype stays below 16."""

    quantity: str
    largest: float
    roundings: float


@dataclasses.dataclass(frozen=True)
class Truth:
    """The first and the last (batch, head), some queries of each, and what the results there should be."""

    heads: tuple[tuple[int, int], ...]
    queries: tuple[int, ...]
    expected: tuple[Mapping[str, criterion.Expectation], ...]

    @classmethod
    def of(cls, attention: Attention, seed: int) -> Truth:
        """The queries become a short case of their own, in which causal is a mask; what belongs to a query alone,
        its output and its gradient, is the same there."""
        arrays = inputs.make(attention, seed)
        last = (attention.batch - 1, attention.heads - 1)
        heads = tuple(dict.fromkeys([(0, 0), last]))
        queries = _spread(attention.q_len)
        return cls(heads, tuple(queries.tolist()), tuple(_expected(attention, arrays, head, queries) for head in heads))

    def errors(self, results: Mapping[str, np.ndarray], mode: str) -> tuple[Error, ...]:
        """Of the output, and of the query's gradient where there is one."""
        names = ("output", "dquery") if mode == BOTH else ("output",)
        return tuple(self._error(name, results[name]) for name in names)

    def _error(self, name: str, found: np.ndarray) -> Error:
        largest = roundings = 0.0
        for result, expected in zip(found, self.expected, strict=True):
            expectation = expected[name]
            off = np.abs(result.astype(np.float64) - expectation.truth[0, 0])
            largest = float(np.maximum(largest, off.max()))  # np.maximum, because max() would lose a NaN
            roundings = float(np.maximum(roundings, (off / expectation.width[0, 0]).max()))
        return Error(name, largest, roundings)


def _spread(length: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, QUERIES)).round().astype(int))


def _expected(
    attention: Attention, arrays: Mapping[str, np.ndarray], head: tuple[int, int], queries: np.ndarray
) -> Mapping[str, criterion.Expectation]:
    b, h = head
    given = {name: arrays[name][b : b + 1, h : h + 1] for name in ("query", "key", "value", "cotangent_output")}
    for name in ("query", "cotangent_output"):
        given[name] = given[name][:, :, queries]
    offset = {None: attention.kv_len, "lower_right": attention.kv_len - attention.q_len, "upper_left": 0}
    given["mask"] = np.arange(attention.kv_len) <= queries[:, None] + offset[attention.corner]
    if attention.bias:
        bias = arrays["bias"].reshape((1,) * (4 - arrays["bias"].ndim) + arrays["bias"].shape)
        shape = (attention.batch, attention.heads, attention.q_len, attention.kv_len)
        given["bias"] = np.broadcast_to(bias, shape)[b, h, queries]
    short = dataclasses.replace(
        attention, batch=1, heads=1, kv_heads=1, q_len=len(queries), causal=False, mask="ij",
        bias="ij" if attention.bias else None,
    )  # fmt: skip
    return criterion.attention(short.case(), given)
