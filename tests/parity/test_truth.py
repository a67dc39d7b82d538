"""truth.py: its gradients are those of its own output, and it knows what is zero by construction.

The hand-worked numbers of section 3 are in tests/test_rules.py; here are the properties that no number shows.
"""

from __future__ import annotations

import numpy as np
import pytest

from parity import criterion, tensors, truth
from parity.attention import Attention

SMALL = {"batch": 2, "heads": 2, "kv_heads": 2, "q_len": 3, "kv_len": 5, "head_dim": 2, "value_dim": 3}
GRID = {
    "plain": {},
    **{f"bias {form}": {"bias": form} for form in ("ij", "hij", "1hij", "b1ij", "bh1j", "bhi1", "111j", "bhij")},
    "mask": {"mask": "bhij", "bias": "hij"},
    "mask hides a row": {"mask": "bhij", "values": "empty-row", "bias": "bhij"},
    "lower right": {"causal": True, "bias": "hij"},
    "lower right, empty rows": {"causal": True, "q_len": 5, "kv_len": 3, "bias": "hij"},
    "upper left": {"causal": True, "flash": True},
    "grouped": {"heads": 4, "causal": True},
    "one key head": {"heads": 4, "kv_heads": 1, "bias": "b1ij"},
    "layout": {"layout": "bnhd", "heads": 4, "bias": "hij", "causal": True},
    "scale": {"scale": -0.7},
    "dropout": {"dropout": 0.25, "bias": "hij"},
    "dropout 1": {"dropout": 1.0},
    "logsumexp": {"logsumexp": True, "bias": "hij"},
    "logsumexp, empty rows": {"logsumexp": True, "causal": True, "q_len": 5, "kv_len": 3},
    "all": {"logsumexp": True, "mask": "bhij", "bias": "111j", "causal": True, "dropout": 0.3, "layout": "bnhd",
            "heads": 4, "scale": 0.3, "q_len": 5},
}  # fmt: skip


def made(**fields):
    case = Attention(**(SMALL | fields)).case()
    return case, tensors.make(case, 0)


def loss(case, arrays):
    """The number whose gradient the truth claims to give."""
    widths = truth.attention(case, arrays)
    total = float((widths["output"].truth * arrays["cotangent_output"]).sum())
    if "logsumexp" in widths:
        lse = widths["logsumexp"].truth
        total += float((np.where(np.isfinite(lse), lse, 0) * arrays["cotangent_logsumexp"]).sum())
    return total


@pytest.mark.parametrize("fields", GRID.values(), ids=GRID)
def test_gradients_are_those_of_the_output(fields):
    """Central differences of the truth's own output in float64, element by element."""
    case, arrays = made(**fields)
    # The fill stays float32's: a float64 query would have another.
    arrays = {name: a if a.dtype == bool else a.astype(np.float64) for name, a in arrays.items()}
    widths = truth.attention(case, arrays)
    for name in case.named("input"):
        step, numeric = 1e-5, np.zeros(arrays[name].shape)
        for index in np.ndindex(numeric.shape):
            beside = []
            for sign in (1, -1):
                moved = arrays[name].copy()
                moved[index] += sign * step
                beside.append(loss(case, arrays | {name: moved}))
            numeric[index] = (beside[0] - beside[1]) / (2 * step)
        assert widths["d" + name].truth.shape == numeric.shape
        np.testing.assert_allclose(widths["d" + name].truth, numeric, rtol=1e-6, atol=2e-9, err_msg=name)


def test_the_differences_would_notice_a_wrong_gradient():
    case, arrays = made(causal=True)
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    moved = arrays["key"].copy()
    moved[0, 0, 0, 0] += 1e-5
    slope = (loss(case, arrays | {"key": moved}) - loss(case, arrays)) / 1e-5
    assert abs(slope - 1.01 * truth.attention(case, arrays)["dkey"].truth[0, 0, 0, 0]) > 1e-4 * abs(slope) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fields", GRID.values(), ids=GRID)
def test_widths_are_finite_and_not_negative(fields, dtype):
    case, arrays = made(**fields, dtype=dtype)
    for name, width in truth.attention(case, arrays).items():
        for part in (width.a, width.a0):
            assert part.shape == width.truth.shape, name
            assert np.isfinite(part).all(), name
            assert (part >= 0).all(), name


EVERYTHING = {"output", "dquery", "dkey", "dvalue", "dbias", "logsumexp"}


@pytest.mark.parametrize(
    ("fields", "zero"),
    [
        ({"bias": "hij", "logsumexp": True}, set()),
        ({"q_len": 0, "bias": "hij", "logsumexp": True}, EVERYTHING),
        ({"value_dim": 0, "bias": "hij"}, EVERYTHING - {"logsumexp"}),
        ({"kv_len": 1, "bias": "hij"}, {"dquery", "dkey", "dbias"}),
        ({"kv_len": 1, "bias": "hij", "logsumexp": True}, set()),
        ({"q_len": 1, "causal": True, "flash": True, "bias": "hij"}, {"dquery", "dkey", "dbias"}),
        ({"q_len": 1, "causal": True, "bias": "hij"}, set()),
        ({"scale": 0.0, "bias": "hij"}, {"dquery", "dkey"}),
        ({"bias": "bhi1"}, {"dbias"}),
        ({"mask": "111j", "values": "empty-row", "bias": "hij"}, {"dquery", "dkey", "dbias"}),
        ({"mask": "bhij", "values": "empty-rows", "logsumexp": True}, {"dquery", "dkey", "logsumexp"}),
        ({"dropout": 1.0, "bias": "hij"}, EVERYTHING - {"logsumexp"}),
    ],
)
def test_what_is_zero_by_construction_is_known_and_nothing_else(fields, zero):
    case = Attention(**fields).case()
    found = criterion.attention(case, tensors.make(case, 0))
    assert {name for name, expected in found.items() if expected.vanishing} == zero & set(case.quantities)
    assert {name for name, expected in found.items() if expected.zero} == zero & set(case.quantities)
