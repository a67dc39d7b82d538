"""Random cases: values and arguments freely, shapes from a palette and sometimes beyond it, because a new shape costs
JAX a compilation; and the way from a failing case to a small one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from parity import criterion, tensors
from parity.attention import DTYPES, FORMS, Attention

# (q_len, kv_len), heads and kv_heads, (head_dim, value_dim)
LENGTHS = ((13, 13), (13, 17), (17, 13), (1, 13), (13, 1), (32, 32))
HEADS = ((4, 4), (4, 2), (4, 1))
SIZES = ((8, 8), (8, 12))
BEYOND = 0.05


def draw(
    n: int, seed: int, dtypes: tuple[str, ...] = DTYPES, wanted: Callable[[Attention], bool] = lambda case: True
) -> list[Attention]:
    """`n` cases from a seed, the same ones every time; those that are not `wanted` are drawn again."""
    indices = itertools.count()
    drawn = (_draw(np.random.default_rng([seed, index]), index, dtypes) for index in indices)
    return list(itertools.islice(filter(wanted, drawn), n))


def says_something(case: Attention, seed: int) -> bool:
    """Whether the arithmetic's own bound is well below the spread of the truth. In 16 bits it often is not."""
    expectations = criterion.attention(case.case(), tensors.make(case.case(), seed))
    return all(expected.zero or expected.vanishing or expected.says_something for expected in expectations.values())


def _draw(rng: np.random.Generator, index: int, dtypes: tuple[str, ...]) -> Attention:
    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    def pick(options):  # type: ignore[no-untyped-def]
        return options[int(rng.integers(len(options)))]

    q_len, kv_len = pick(LENGTHS)
    heads, kv_heads = pick(HEADS)
    head_dim, value_dim = pick(SIZES)
    if chance(BEYOND):
        q_len, kv_len, head_dim, value_dim = (int(rng.integers(1, 48)) for _ in range(4))
    dtype = pick(dtypes)
    bias = pick(FORMS) if chance(0.5) else None
    mask = pick(FORMS) if chance(0.3) else None
    return Attention(
        rule=f"fuzz-{index}",
        q_len=q_len,
        kv_len=kv_len,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        flash=chance(0.3),
        causal=pick((True, "lower_right", "upper_left")) if chance(0.5) else False,
        bias=bias,
        bias_dtype="float32" if bias and dtype != "float32" and chance(0.5) else None,
        mask=mask,
        values="empty-row" if mask and chance(0.3) else "normal",
        scale=pick((0.1, 0.3, 1.0)) if chance(0.2) else None,
        layout="bnhd" if chance(0.3) else "bhnd",
        logsumexp=chance(0.2),
        dropout=pick((0.1, 0.5)) if chance(0.15) else 0.0,
        std=pick((0.1, 0.5, 1.0, 3.0)),
    )


# What is simpler, in the order it is tried.
_SIMPLER: tuple[dict[str, object], ...] = (
    {"mask": None, "values": "normal"},
    {"bias": None, "bias_dtype": None},
    {"causal": False},
    {"dropout": 0.0},
    {"logsumexp": False},
    {"layout": "bhnd"},
    {"flash": False},
    {"scale": None},
    {"bias_dtype": None},
    {"values": "normal"},
    {"dtype": "float32", "bias_dtype": None},
    {"std": 1.0},
    {"kv_heads": 1, "heads": 1},
    {"batch": 1},
    {"value_dim": 1},
    {"head_dim": 1},
    {"q_len": 1},
    {"kv_len": 1},
    {"q_len": 2},
    {"kv_len": 2},
    {"q_len": 3},
    {"kv_len": 3},
    {"bias": "ij"},
    {"mask": "ij"},
)


def simpler(case: Attention) -> Iterator[Attention]:
    """Cases one step simpler than this one."""
    for change in _SIMPLER:
        if any(key in ("bias", "mask") and value and not getattr(case, key) for key, value in change.items()):
            continue
        grows = any(isinstance(v, int) and not isinstance(v, bool) and v > getattr(case, k) for k, v in change.items())
        candidate = dataclasses.replace(case, **change)  # type: ignore[arg-type]
        if candidate != case and not grows:
            yield candidate


def shrink(case: Attention, fails: Callable[[Attention], bool]) -> Attention:
    """The simplest case that still fails, by greedy descent."""
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in simpler(case):
            if fails(candidate):
                case, shrinking = candidate, True
                break
    return case
