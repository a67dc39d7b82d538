"""Sums with one accumulator: how many terms there are, and that such a sum is within its spread."""

import jax
import numpy as np
import pytest
import torch

from parity.montecarlo import sums
from parity.montecarlo.spread import Rounding, spread

ATEN = torch.ops.aten
PLAIN = [1, 1], [0, 0], [1, 1]


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (ATEN.mm.default, (ones(3, 5), ones(5, 7))),
        (ATEN.bmm.default, (ones(2, 3, 5), ones(2, 5, 7))),
        (ATEN.addmm.default, (0 * ones(7), ones(3, 5), ones(5, 7))),
        (ATEN.sum.default, (ones(3, 5),)),
        (ATEN.sum.dim_IntList, (ones(3, 5, 7), [0, 2])),
        (ATEN.cumsum.default, (ones(3, 5), 1)),
        (ATEN.convolution.default, (ones(2, 6, 9, 9), ones(4, 3, 5, 3), None, *PLAIN, False, [0, 0], 2)),
        (ATEN.convolution.default, (ones(2, 6, 9, 9), ones(6, 4, 5, 3), None, *PLAIN, True, [0, 0], 1)),
    ],
    ids=lambda value: str(value) if isinstance(value, torch._ops.OpOverload) else "",
)
def test_terms_are_what_ones_add_up_to(op, args):
    assert sums.terms_of(op, args, 0) == op(*args).max()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mask", [(True, True, True), (False, True, True), (False, False, True), (True, False, False)])
def test_terms_of_the_gradients_of_a_convolution(transposed, mask):
    x, weight = ones(2, 4, 8, 8), ones(*((4, 3) if transposed else (3, 4)), 1, 3)
    gradient = torch.ones_like(ATEN.convolution(x, weight, None, *PLAIN, transposed, [0, 0], 1))
    args = (gradient, x, weight, [3], *PLAIN, transposed, [0, 0], 1, list(mask))
    found = [result for result in ATEN.convolution_backward(*args) if result is not None]
    for number, result in enumerate(found):
        terms = sums.terms_of(ATEN.convolution_backward.default, args, number)
        assert result.max() <= terms <= 1.5 * result.max()  # a place at the edge is counted too


def errors_of_one_accumulator(terms=4096, rows=64):
    """error / (6 * spread) of sums that are added up one by one in float32."""
    numbers = np.random.default_rng(0).standard_normal((rows, terms)).astype(np.float32)
    x = torch.tensor(numbers).double()
    truth = {"sum": x.sum(1).numpy()}
    width = spread(lambda: {"sum": x.sum(1)}, truth, Rounding.of("float32")).results["sum"]
    one_by_one = np.cumsum(numbers, axis=1, dtype=np.float32)[:, -1]
    return np.abs(one_by_one - truth["sum"]) / (6 * width)


def test_one_accumulator_is_within_the_spread(monkeypatch):
    assert errors_of_one_accumulator().max() < 1
    monkeypatch.setattr(sums, "VARIANCE", 0.0)
    assert errors_of_one_accumulator().max() > 1


def errors_of_a_bias_gradient(terms=1000, features=256):
    """error / (6 * spread) of XLA's gradient of a bias in bfloat16, which it adds up in bfloat16."""
    numbers = np.random.default_rng(0).standard_normal((terms, features)).astype(jax.numpy.bfloat16)
    x = torch.tensor(numbers.astype(np.float64))
    truth = {"dbias": x.sum(0).numpy()}
    width = spread(lambda: {"dbias": x.sum(0)}, truth, Rounding.of("bfloat16")).results["dbias"]
    actual = jax.jit(jax.linear_transpose(lambda bias: jax.numpy.broadcast_to(bias, numbers.shape), numbers[0]))(
        numbers
    )
    return np.abs(np.asarray(actual[0]).astype(np.float64) - truth["dbias"]) / (6 * width)


def test_a_bias_gradient_in_16_bits_is_within_the_spread_and_not_without_its_blocks(monkeypatch):
    assert errors_of_a_bias_gradient().max() < 1
    monkeypatch.setattr(sums, "BLOCK", 1)
    assert errors_of_a_bias_gradient().max() > 1


def test_only_sums_that_undo_a_broadcast_are_added_up_in_16_bits():
    class Bfloat16:
        rounding = Rounding.of("bfloat16")

    def units(op, *args):
        return sums.accumulator(Bfloat16(), op, args, 0)

    assert units(ATEN.sum.dim_IntList, ones(3, 5, 7), [0, 1]) == (2.0**-8, 15)
    assert units(ATEN.sum.dim_IntList, ones(5000, 7), [0]) == (2.0**-8, 1024)
    assert units(ATEN.sum.dim_IntList, ones(3, 5, 7), [1, 2]) == (2.0**-24, 35)
    assert units(ATEN.sum.default, ones(3, 5)) == (2.0**-24, 15)
    assert units(ATEN.mm.default, ones(3, 5), ones(5, 7)) == (2.0**-24, 5)
