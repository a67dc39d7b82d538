"""The suites: tables of cases, one line to add a row.

The default suite is a pairwise cover: every pair of (rule, dtype, mode, bias form, rectangle) stands in some case,
which takes a hundred cases where the product would take 1,800; so does every pair of features, and of what a port of S1
to S9 can run. Then lengths beyond any block, the edges, the real shapes, and dropout.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from allpairspy import AllPairs

from parity.attention import DTYPES, Attention

Row = dict[str, Any]

# rule -> what it adds to a case. The names are the sections of docs/semantics.md.
RULES: dict[str, Row] = {
    "S1": {},
    "S3": {"causal": True},
    "S7": {"kv_heads": 1},
    "S10": {"causal": "upper_left"},
    "S12": {"mask": "bhij"},
    "S13": {"kv_heads": 2},
    "S14": {"layout": "bnhd", "causal": True},
    "S15": {"logsumexp": True},
    "S16": {"dropout": 0.25},
}
MODES: dict[str, Row] = {"plain": {}, "flash": {"flash": True}}
BIASES: dict[str, Row] = {
    "none": {},
    "ij": {"bias": "ij"},
    "hij": {"bias": "hij"},
    "1hij": {"bias": "1hij"},
    "b1ij": {"bias": "b1ij"},
    "bh1j": {"bias": "bh1j"},
    "111j": {"bias": "111j"},
    "bhij": {"bias": "bhij"},
    "mixed": {"bias": "hij"},  # in float32 with 16-bit inputs, as the real workload's; in bfloat16 with float32
}
RECTANGLES: dict[str, Row] = {"square": {}, "wide": {"kv_len": 17}, "tall": {"q_len": 17}}
AXES: tuple[tuple[str, ...], ...] = (tuple(RULES), DTYPES, tuple(MODES), tuple(BIASES), tuple(RECTANGLES))


def row(rule: str, dtype: str, mode: str, bias: str, rectangle: str) -> Attention:
    """One choice along AXES as a case."""
    parts = RULES[rule] | MODES[mode] | BIASES[bias] | RECTANGLES[rectangle]
    if bias == "mixed":
        parts["bias_dtype"] = "bfloat16" if dtype == "float32" else "float32"
    if dtype == "bfloat16":
        parts["std"] = 0.5  # smaller scores, a narrower bound
    return Attention(rule=rule, dtype=dtype, **parts)


def pairwise() -> list[Attention]:
    """Every pair of values of two AXES, in as few cases as a greedy search finds."""
    return [row(*choice) for choice in AllPairs([list(axis) for axis in AXES])]


# Lengths past any block size and the corners that ports get wrong only there.
LONG = (
    Attention(rule="long", batch=1, heads=2, kv_heads=2, q_len=300, kv_len=300, causal=True, bias="hij"),
    Attention(rule="long", batch=1, heads=2, kv_heads=1, q_len=130, kv_len=521, causal=True, mask="111j"),
    Attention(rule="long", batch=1, heads=1, kv_heads=1, q_len=257, kv_len=2060, causal=True, bias="hij"),
    Attention(rule="long", batch=1, heads=1, kv_heads=1, q_len=1100, kv_len=1061, head_dim=16, value_dim=16, bias="ij"),
    Attention(
        rule="long",
        batch=1,
        heads=2,
        kv_heads=2,
        q_len=260,
        kv_len=257,
        dtype="bfloat16",
        values="sparse",
        logsumexp=True,
    ),
    Attention(rule="long", batch=1, heads=1, kv_heads=1, q_len=1700, kv_len=1600, causal=True, head_dim=16),
    Attention(rule="long", batch=1, heads=1, kv_heads=1, q_len=300, kv_len=130, causal=True),
    Attention(rule="long", batch=1, heads=1, kv_heads=1, q_len=65, kv_len=130, dtype="float16", values="sparse"),
    Attention(rule="long", batch=5, heads=12, kv_heads=12, head_dim=128, value_dim=128, causal=True),
    Attention(rule="long", batch=3, heads=6, kv_heads=3, q_len=65, kv_len=64, causal=True, flash=True, bias="bhij"),
)

# The video U-Net of the reference: 8 heads of 64, a learned fp32 bias per head, causal in time if at all.
WORKLOAD = {
    "space": Attention(batch=8, heads=8, kv_heads=8, q_len=256, kv_len=256, head_dim=64, value_dim=64, bias="hij"),
    "time": Attention(batch=256, heads=8, kv_heads=8, q_len=8, kv_len=8, head_dim=64, value_dim=64, bias="hij"),
    "time-causal": Attention(
        batch=256, heads=8, kv_heads=8, q_len=8, kv_len=8, head_dim=64, value_dim=64, bias="hij", causal=True
    ),
    "middle": Attention(batch=8, heads=8, kv_heads=8, q_len=64, kv_len=64, head_dim=64, value_dim=64, bias="hij"),
    "middle-time": Attention(batch=64, heads=8, kv_heads=8, q_len=8, kv_len=8, head_dim=64, value_dim=64, bias="hij"),
}
BIG_WORKLOAD = {
    "time-video": dataclasses.replace(WORKLOAD["time-causal"], q_len=16, kv_len=16),
    "space-video": dataclasses.replace(WORKLOAD["space"], batch=16),
    "space-256": dataclasses.replace(WORKLOAD["space"], batch=1, q_len=1024, kv_len=1024),
    "time-256": dataclasses.replace(WORKLOAD["time"], batch=1024, q_len=16, kv_len=16),
}


def workload(shapes: dict[str, Attention], dtypes: Iterable[str]) -> list[Attention]:
    """The real shapes, in each dtype with the float32 bias that the model learns."""
    narrow: Row = {
        "bias_dtype": "float32",
        "values": "sparse",
        "std": 0.3,
    }  # dense numbers drown in 16 bits at these lengths
    return [
        dataclasses.replace(shape, rule=name, dtype=dtype, **({} if dtype == "float32" else narrow))
        for name, shape in shapes.items()
        for dtype in dtypes
    ]


# Dropout by each side's own generator. value is the identity: e = j.
_DROPOUT: tuple[dict[str, Any], ...] = (
    {"dropout": 0.1},
    {"dropout": 0.5, "bias": "hij", "causal": True},
    {"dropout": 0.5, "flash": True},
    {"dropout": 0.25, "dtype": "bfloat16", "kv_heads": 2},
    {"dropout": 1.0},
    # Enough weights to see a rate that is off by a percent.
    {"dropout": 0.1, "batch": 8, "heads": 8, "kv_heads": 8, "q_len": 64, "kv_len": 64, "value_dim": 64},
)
_NATIVE: Row = {"rule": "S6", "kind": "dropout", "values": "identity-value"}
NATIVE_DROPOUT = tuple(
    Attention(**({"q_len": 32, "kv_len": 24, "value_dim": 24} | fields), **_NATIVE) for fields in _DROPOUT
)

_NON_FINITE = (
    {"values": "nan-query"},
    {"values": "nan-key"},
    {"values": "nan-value"},
    {"values": "nan-bias", "bias": "hij"},
    {"values": "inf-query"},
    {"values": "inf-key"},
    {"values": "inf-value"},
    {"values": "-inf-value"},
    {"values": "inf-bias", "bias": "hij"},
    {"values": "-inf-bias", "bias": "bhij"},
    {"values": "-inf-bias", "bias": "hij", "causal": True},
    {"values": "masked-nan-key", "mask": "111j"},
    {"values": "masked-inf-key", "mask": "111j"},
    {"values": "masked-nan-value", "mask": "111j"},
)
EDGE: tuple[Row, ...] = (
    *({"rule": "S1-empty", axis: 0} for axis in ("batch", "q_len", "kv_len", "value_dim")),
    {"rule": "S1-empty", "heads": 0, "kv_heads": 0},
    {"rule": "S1-empty", "kv_len": 0, "logsumexp": True},
    {"rule": "S1-empty", "kv_len": 0, "bias": "hij", "causal": True},
    *({"rule": "one-query", "q_len": 1} | extra for extra in ({"causal": True, "flash": True}, {"causal": True}, {})),
    *(
        {"rule": "one-key", "kv_len": 1} | extra
        for extra in ({"bias": "bhij", "logsumexp": True}, {"causal": True}, {})
    ),
    {"rule": "one-query", "q_len": 1, "kv_len": 1},
    {"rule": "one-head", "heads": 1, "kv_heads": 1},
    {"rule": "one-batch", "batch": 1, "bias": "hij"},
    {"rule": "one-feature", "head_dim": 1, "value_dim": 1, "heads": 1, "kv_heads": 1, "batch": 1, "causal": True},
    {"rule": "one-feature", "head_dim": 1},
    {"rule": "one-feature", "value_dim": 1},
    {"rule": "odd", "q_len": 31, "kv_len": 33, "head_dim": 7, "value_dim": 5, "causal": True, "bias": "hij"},
    {"rule": "odd", "q_len": 63, "kv_len": 65, "head_dim": 3, "causal": "upper_left"},
    {"rule": "S2", "bias": "bhi1"},
    {"rule": "S2", "bias": "hij", "bias_dtype": "bfloat16"},
    {"rule": "S2", "bias": "hij", "bias_dtype": "float16", "flash": True},
    {"rule": "S2", "bias": "hij", "bias_dtype": "float32", "dtype": "float16", "causal": True},
    {"rule": "S4", "q_len": 17, "causal": True, "logsumexp": True},
    {"rule": "S4", "q_len": 17, "kv_len": 3, "causal": True, "bias": "hij"},
    *({"rule": "S4", "mask": "b1ij", "values": "empty-row", "dtype": dtype} for dtype in ("bfloat16", "float16")),
    {"rule": "S4", "mask": "b1ij", "values": "empty-row", "bias": "hij", "flash": True, "kv_len": 17},
    {"rule": "S4", "mask": "bhij", "values": "empty-rows"},
    {"rule": "S4", "mask": "bhij", "values": "empty-rows", "flash": True, "logsumexp": True},
    {"rule": "S4", "mask": "bhi1", "bias": "hij", "causal": True, "logsumexp": True},
    {"rule": "S5", "values": "-inf-bias-row", "bias": "bhij"},
    {"rule": "S5", "values": "-inf-bias-row", "bias": "bhij", "causal": True},
    {"rule": "S5", "values": "-inf-bias-row", "bias": "bhij", "mask": "111j"},
    *({"rule": "S17"} | extra for extra in _NON_FINITE),
    *({"rule": "S12", "mask": form} for form in ("ij", "hij", "111j", "bh1j")),
    *({"rule": "S16", "dropout": rate} for rate in (0.01, 0.9)),
    {"rule": "S16", "dropout": 1.0, "bias": "hij"},
    {"rule": "S16", "dropout": 0.5, "causal": True, "q_len": 17, "kv_heads": 2, "logsumexp": True},
    {"rule": "S14", "layout": "bnhd", "kv_heads": 2, "q_len": 17, "causal": True, "bias": "b1ij", "value_dim": 12},
    {"rule": "small", "values": "subnormal"},
    {"rule": "small", "values": "subnormal-query"},
    {"rule": "small", "values": "subnormal", "dtype": "bfloat16"},
    {"rule": "big", "values": "near-overflow", "dtype": "float16", "scale": 1e-3},
    *(
        {"rule": "low", "values": "low-bias", "bias": "hij", "dtype": "float16", "std": 2.0, "q_len": n, "kv_len": n}
        for n in (64, 192)
    ),
    *({"rule": "magnitude", "std": std} for std in (10.0, 1e-3, 0.1)),
    {"rule": "magnitude", "std": 30.0, "causal": True},
    *({"rule": "scale", "scale": scale} for scale in (-0.5, 1e-3, 1.0, 10.0, 0.0)),
)

SMOKE = (
    Attention(),
    Attention(rule="S2", bias="hij"),
    Attention(rule="S2", bias="b1ij", kv_len=17),
    Attention(rule="S2", bias="hij", bias_dtype="float32", dtype="bfloat16"),
    Attention(rule="S3", causal=True),
    Attention(rule="S3", causal=True, kv_len=17, bias="hij"),
    Attention(rule="S4", causal=True, q_len=17, value_dim=12),
    Attention(rule="S7", kv_heads=1),
    Attention(rule="S8", causal=True, flash=True, kv_len=17),
    Attention(rule="S10", causal="lower_right", flash=True, kv_len=17, dtype="float16"),
    Attention(rule="S12", mask="bhij", flash=True, bias="hij"),
    Attention(rule="S12-empty", mask="b1ij", values="empty-row", dtype="bfloat16"),
    Attention(rule="S13", kv_heads=2, scale=0.3),
    Attention(rule="S14", layout="bnhd", causal=True, kv_len=17),
    Attention(rule="S15", logsumexp=True, causal=True),
    Attention(rule="S16", dropout=0.25),
    *LONG[:1],
    *NATIVE_DROPOUT[:1],
)


# The same for what every Attend has: its three options and a bias, on more sizes. It judges those who have no more.
SIZES: dict[str, Row] = {
    "13x13": {},
    "16x16": {"batch": 3, "heads": 3, "kv_heads": 3, "q_len": 16, "kv_len": 16, "head_dim": 16, "value_dim": 16},
    "33x65": {"batch": 1, "heads": 2, "kv_heads": 2, "q_len": 33, "kv_len": 65, "value_dim": 5},
    "65x33": {"heads": 2, "kv_heads": 2, "q_len": 65, "kv_len": 33, "head_dim": 12, "value_dim": 24},
    "64x64": {"heads": 8, "kv_heads": 8, "q_len": 64, "kv_len": 64, "head_dim": 64, "value_dim": 64},
    "1x40": {"batch": 4, "heads": 5, "kv_heads": 1, "q_len": 1, "kv_len": 40},
}
CORE_BIASES = ("none", "hij", "b1ij", "111j")


def core() -> list[Attention]:
    """Every pair of size, causal, mode and bias form, in float32, where subtle faults show."""
    few = [
        *AllPairs([list(SIZES.values()), [False, True], list(MODES.values()), [BIASES[name] for name in CORE_BIASES]])
    ]
    rest = [BIASES[name] for name in BIASES if name not in (*CORE_BIASES, "mixed")]
    small = [*AllPairs([list(RECTANGLES.values()), [False, True], list(MODES.values()), rest])]
    return [Attention(rule="core", causal=causal, **size, **mode, **bias) for size, causal, mode, bias in few + small]


# And once more for what can be combined, in float32: each feature meets each value of every other.
FEATURES: dict[str, tuple[Any, ...]] = {
    "causal": (False, True, "lower_right", "upper_left"),
    "mask": (None, "bhij", "b11j", "11ij", "hij"),
    "bias": (None, "hij", "b1ij", "j"),
    "kv_heads": (4, 2, 1),
    "kv_len": (13, 17, 11),
    "layout": ("bhnd", "bnhd"),
    "scale": (None, 0.3),
    "value_dim": (8, 12),
    "logsumexp": (False, True),
    "dropout": (0.0, 0.25),
    "flash": (False, True),
    "std": (1.0, 3.0),
}


def features() -> list[Attention]:
    """Every pair of values of two FEATURES."""
    return [
        Attention(rule="pair", **dict(zip(FEATURES, choice, strict=True))) for choice in AllPairs([*FEATURES.values()])
    ]


def _unique(cases: Iterable[Attention]) -> list[Attention]:
    return list({case.name: case for case in cases}.values())


def _default() -> list[Attention]:
    real = workload({name: WORKLOAD[name] for name in ("space", "time-causal", "middle")}, ("float32",))
    real += workload({name: WORKLOAD[name] for name in ("time", "middle")}, ("bfloat16",))
    return [*SMOKE, *pairwise(), *core(), *features(), *LONG, *_edge(), *real, *NATIVE_DROPOUT]


def _tiny() -> list[Attention]:
    """Smoke at a few primes, without those cases whose point is their length."""
    lengths = {13: 5, 17: 7}
    return [
        dataclasses.replace(
            case,
            heads=4 if case.kv_heads == 2 else 2,
            kv_heads=min(case.kv_heads, 2),
            q_len=lengths[case.q_len],
            kv_len=lengths[case.kv_len],
            head_dim=3,
            value_dim=4,
        )
        for case in SMOKE
        if case.q_len in lengths
    ]


def _edge() -> list[Attention]:
    return [Attention(**fields) for fields in EDGE]


def _full() -> list[Attention]:
    every = [row(*choice) for choice in itertools.product(*AXES)]
    # A seventh of the product: 7 divides the length of no axis, so the stride walks through all of them.
    return [*_default(), *every[::7], *workload(WORKLOAD | BIG_WORKLOAD, DTYPES)]


SUITES: dict[str, tuple[str, Callable[[], list[Attention]]]] = {
    "smoke": ("the rules once each, in seconds", lambda: list(SMOKE)),
    "default": ("every pair of rule, dtype, mode, bias and rectangle, and of features; edges; real shapes", _default),
    "edge": ("sizes of 0 and 1, odd lengths, empty rows, NaN and inf, subnormals, overflow, scales", _edge),
    "workload": ("the shapes of the reference's video U-Net", lambda: workload(WORKLOAD | BIG_WORKLOAD, DTYPES)),
    "full": ("all of the above and a seventh of the whole product", _full),
    "tiny": ("the rules once each in a few kilobytes, for a golden that a repository keeps", _tiny),
}


@functools.cache
def suite(name: str) -> tuple[Attention, ...]:
    """The cases of a suite, each once."""
    return tuple(_unique(SUITES[name][1]()))
