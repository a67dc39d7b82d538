"""Runs in, widths out: the floor, discrete results, and a `run` that does not keep its promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from parity.montecarlo.spread import Ahead, Rounding, Spread, bound, spread
from parity.pairs.torch_side import gradients_of

SINGLE = Rounding.of("float32")


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32)).double()


def found(run, **options):
    return spread(run, {name: tensor.detach().numpy() for name, tensor in run().items()}, SINGLE, **options)


def test_the_result_is_numpy_and_frozen():
    x = numbers(5, 64)
    answer = found(lambda: {"y": torch.exp(x), "largest": torch.exp(x).argmax(-1)}, runs=4)
    assert {name: width.shape for name, width in answer.results.items()} == {"y": (5, 64)}
    assert {name: (flag.shape, flag.dtype) for name, flag in answer.uncertain.items()} == {"largest": ((5,), bool)}
    assert isinstance(answer.results["y"], np.ndarray)
    assert (answer.runs, answer.unruled) == (4, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.runs = 3


def test_the_last_rounding_is_in_it():
    """u*|y| exactly, for no run draws it; inputs are exact."""
    x = numbers(3, 64)
    y = np.exp(x.numpy())
    expected = SINGLE.unit * np.maximum(y, 0.5 * np.sqrt(np.mean(y**2, -1, keepdims=True)))
    np.testing.assert_allclose(found(lambda: {"y": torch.exp(x)}).results["y"], expected, rtol=1e-5)


def test_a_row_is_as_many_last_axes_as_it_takes():
    """An element of nearly no width has half its row's; a row of three says too little, and is joined with the next."""
    x = torch.ones(2, 4, 3, dtype=torch.float64)
    x[0, 0, 0] = 2.0**-20
    x[1] *= 2.0**-20
    width = found(lambda: {"y": x / 3.0}).results["y"] / SINGLE.unit
    assert width[0, 0, 0] == pytest.approx(1 / 6, rel=0.1)
    assert width[0, 1, 0] == pytest.approx(1 / 3)
    assert (width[1] < 1e-5).all()


def grown(ahead=None):
    """A parameter that is used twice, one that is not, and a gradient that is laid out the other way round."""
    w, v, unused = (numbers(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(13, 11), (11, 5), (3,)]))
    y = torch.exp(numbers(7, 13, seed=4) @ w) @ (w.T @ w @ v)
    return {"y": y.detach()} | gradients_of([y], [torch.ones_like(y)], {"w": w, "v": v, "unused": unused}, ahead)


def test_results_that_are_given_ahead_count_the_same():
    truth = {name: tensor.numpy() for name, tensor in grown().items()}
    kept, given = (spread(grown, truth, SINGLE, ahead=ahead) for ahead in (False, True))
    assert kept.results.keys() == given.results.keys() == truth.keys()
    assert all(np.array_equal(kept.results[name], given.results[name]) for name in truth)
    assert kept.results["w"].all()

    taken = Ahead(lambda name, tensor: None)
    left = grown(taken)
    assert (taken.taken, left.keys()) == ({"w", "v"}, {"y", "unused"})


def test_errors_are_added_up_in_blocks(monkeypatch):
    whole = found(grown)
    monkeypatch.setattr("parity.montecarlo.spread.BLOCK", 20)
    blocks = found(grown)
    assert all(np.array_equal(whole.results[name], blocks.results[name]) for name in whole.results)


def test_the_bound_is_twice_the_references_worst_and_six_times_the_spread():
    assert bound(np.array([[1.0, -4.0], [np.nan, np.inf]]), np.array([[0.5, 1.0]])).tolist() == [[11.0, 14.0]]
    assert bound(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)
    assert bound(np.array(3.0), np.array(1.0)) == 12


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 2**-24), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_the_rounding_of_a_dtype(dtype, unit):
    assert Rounding.of(dtype).unit == unit
    assert Rounding.of(dtype).smallest < 1e-7


def test_a_dtype_that_is_none():
    with pytest.raises(ValueError, match="expected a dtype of float64, float32, bfloat16, float16, got 'int8'"):
        Rounding.of("int8")


def near(gap):
    """Two numbers a row, the second larger by `gap` units roundoff; both come from a product that is rounded."""
    first = numbers(64, 1).abs() + 1
    return torch.cat([first, first * (1 + gap * SINGLE.unit)], 1)


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("argmax", lambda y: y.argmax(-1)), ("gt", lambda y: y[:, 0] > y[:, 1]),
        ("sort", lambda y: y.sort(-1).indices),
        ("topk", lambda y: y.topk(1).indices), ("max", lambda y: y.max(-1).indices),
        ("_to_copy", lambda y: (y[:, 0] / y[:, 1]).long()), ("floor", lambda y: (y[:, 0] / y[:, 1]).floor().bool()),

        ("round", lambda y: (y[:, 0] / y[:, 1] / 2).round().bool()),
        ("sign", lambda y: (y[:, 0] - y[:, 1]).sign().bool()),
    ],
)  # fmt: skip
def test_what_rounding_can_flip_is_said_and_what_it_cannot_is_not(name, op):
    for gap, flips in ((0.5, True), (1e5, False)):
        x = near(gap)
        answer = found(lambda x=x: {"y": op(x * 0.7)})
        assert bool(answer.flips.get(name, 0)) == flips
        if name not in ("floor", "round", "sign", "_to_copy"):
            assert answer.uncertain["y"].any() == flips


def test_a_flip_in_between_is_counted_though_the_result_is_a_float():
    x = near(0.5)
    answer = found(lambda: {"y": torch.where((x * 0.7)[:, 0] > (x * 0.7)[:, 1], 1.0, 2.0).double()})
    assert 0 < answer.flips["gt"] <= 64
    assert answer.results["y"].max() > 0.3


def test_a_relus_flipped_gradient_is_in_the_width():
    x, zero = numbers(200), torch.zeros(200, dtype=torch.float64)

    def run():
        y = (x * 0.7 - (x * 0.7).detach() + zero).requires_grad_()
        return {"dx": torch.autograd.grad(torch.relu(y).sum(), y)[0]}

    answer = found(run)
    assert answer.flips["le"] > 0
    assert (answer.results["dx"] > 0.1).mean() > 0.5


def test_a_random_run_is_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"expected `run` to give `truth`.*other numbers for `y`. Is it random"):
        found(lambda: {"y": torch.rand(9, dtype=torch.float64, generator=generator)})


def test_a_run_that_changes_its_inputs_is_refused():
    x = numbers(9)
    with pytest.raises(ValueError, match="does it change its inputs"):
        found(lambda: {"y": x.add_(1.0).clone()})


def test_other_names_and_shapes_are_refused():
    x = numbers(9)
    with pytest.raises(ValueError, match=r"expected `run` to return \['z'\], as in `truth`, got \['y'\]"):
        spread(lambda: {"y": x}, {"z": x.numpy()}, SINGLE)
    with pytest.raises(ValueError, match=r"expected `y` of shape \(3,\), as in `truth`, got \(9,\)"):
        spread(lambda: {"y": x}, {"y": np.zeros(3)}, SINGLE)
    with pytest.raises(ValueError, match="expected `runs` of at least 2, got 1"):
        found(lambda: {"y": x}, runs=1)


def test_nan_and_inf_that_stand_in_the_truth_have_no_width():
    x = torch.tensor([1.5, -1.0, 0.0, 3.0], dtype=torch.float64)
    width = found(lambda: {"y": torch.log(x) * 1.5}).results["y"]
    assert np.isfinite(width).all()


def test_a_zero_sized_result_and_a_scalar():
    x = numbers(0, 3)
    answer = found(lambda: {"y": x * 3.0, "sum": x.exp().sum() + numbers(3).exp().sum()})
    assert answer.results["y"].shape == (0, 3)
    assert answer.results["sum"].shape == ()
    assert answer.results["sum"] > 0


def test_the_same_seed_gives_the_same_spread():
    x = numbers(4, 32)

    def run():
        return {"y": torch.softmax(x @ x.T, -1)}

    first, again, other = found(run, seed=1), found(run, seed=1), found(run, seed=2)
    assert (first.results["y"] == again.results["y"]).all()
    assert (first.results["y"] != other.results["y"]).any()
    assert isinstance(first, Spread)


def near_ties(dtype, other, seed):
    """A relu, three in a thousand of whose inputs cancel to a few units roundoff of their terms, and its gradients."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((300, 16)).astype(np.float32), rng.standard_normal((16, 4)).astype(np.float32)
    product = x.astype(float) @ w.astype(float)
    off = np.where(rng.random(product.shape) < 0.003, 2.0**-22, 0.3) * rng.standard_normal(product.shape)
    given = [torch.from_numpy(a.astype(np.float32)).to(dtype) for a in (x, w, -product * (1 + off), product * 0 + 1.5)]
    x, w, bias, cotangent = given
    x, w = x.requires_grad_(), w.requires_grad_()
    y = torch.relu((x.flip(-1) @ w.flip(0) if other else x @ w) + bias)
    return dict(zip(("dx", "dw"), torch.autograd.grad((y * y + y * cotangent).sum(), (x, w)), strict=True))


def test_an_honest_candidate_may_flip_where_noise_does():
    """By the spread alone: the reference's own flips do not have to excuse the candidate's.

    Not always: of 100 seeds of this model, made of ties, 10 have a gradient beyond it, 22 without DOUBT.
    """
    flipped = 0
    for seed in range(10):
        truth = {name: y.numpy() for name, y in near_ties(torch.float64, False, seed).items()}
        candidate = near_ties(torch.float32, True, seed)
        answer = spread(lambda seed=seed: near_ties(torch.float64, False, seed), truth, SINGLE, seed=seed)
        flipped += sum(answer.flips.values())
        for name, width in answer.results.items():
            assert (np.abs(candidate[name].double().numpy() - truth[name]) <= 12 * width).all()
    assert flipped > 10


def test_a_maximums_gradient_finds_the_maximum():
    """amax and max compare their result with the tensor: noise of their own would leave no equal pair, and 0 / 0."""
    x = numbers(7, 9) * 0.7

    def run():
        y = x.clone().requires_grad_()
        z = torch.exp(y)
        return {"dx": torch.autograd.grad(z.amax(-1).sum() + z.max() + z.min(0).values.sum() + z.norm(torch.inf), y)[0]}

    answer = found(run)
    assert np.isfinite(answer.results["dx"]).all()
    assert answer.results["dx"].max() < 1e-5


def test_a_threshold_that_was_picked_from_the_tensor_is_no_tie():
    """The k-th largest is not below itself: what top-k sampling masks."""
    x = numbers(5, 40)

    def run():
        y = torch.exp(x * 0.7)
        return {"y": y.masked_fill(y < y.topk(3).values[:, -1:], -torch.inf).softmax(-1)}

    answer = found(run)
    assert not any(answer.flips.values())
    assert answer.results["y"].max() < 1e-5
