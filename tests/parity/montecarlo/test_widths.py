"""Every row of the table against float32: what is claimed is what that op's rounding does, and no row is dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.montecarlo import apart_fused, apart_norms, spread, widths
from parity.montecarlo.noise import Noise
from parity.montecarlo.results import Rounding
from tests.parity.montecarlo.samples import ELSEWHERE, SAMPLES, UNKNOWN, Draw

# Of the root mean square of what float32 does, over the claimed one. A contraction in one chain of n products stands at
# sqrt(n / 12), here 2.2; the bound gives six times the claim, and twice what the reference's own chain does.
LOW, HIGH = 0.1, 2.5
# Of the largest error over the claimed deviation: what is beyond 6 needs the reference's own error to pass.
LARGEST = 9.0


def test_every_row_has_a_sample():
    assert set(widths.RULES) == set(SAMPLES) | UNKNOWN | ELSEWHERE


def results(name, dtype, exact):
    y = SAMPLES[name](Draw(dtype, exact))
    return {str(i): tensor for i, tensor in enumerate(y if isinstance(y, list | tuple) else [y]) if tensor is not None}


@pytest.fixture
def seen(monkeypatch):
    """The rows of the table that were asked for."""
    names = set()

    def watched(name, rule):
        return lambda *args: names.add(name) or rule(*args)

    monkeypatch.setattr(spread, "RULES", {name: watched(name, rule) for name, rule in widths.RULES.items()})
    return names


@pytest.mark.parametrize("exact", [True, False], ids=["exact inputs", "rounded inputs"])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_claimed_width_is_what_float32_does(name, exact, seen):
    """With rounded inputs the width is mostly of what moves along from them."""
    single = results(name, torch.float32, exact)
    truth = {key: y.double().numpy() if y.is_floating_point() else y.numpy() for key, y in
             results(name, torch.float64, exact).items()}  # fmt: skip
    found = spread.spread(lambda: results(name, torch.float64, exact), truth, Rounding.of("float32"))
    assert name in seen, "a row that no op asks for"
    assert not found.unruled
    for key, width in found.results.items():
        error = np.abs(single[key].double().numpy() - truth[key])
        if not width.any():
            assert not error.any(), "claimed to be exact"
            continue
        assert error.any() or width.max() < 1e-6 * np.abs(truth[key]).max(), "claimed to be rounded"
        ratio = np.sqrt(np.mean(error**2) / np.mean(width**2))
        assert ratio <= HIGH
        assert ratio >= LOW or error.size < 50 or exact  # exact inputs may leave nothing to round
        assert (error <= LARGEST * width).all()


@pytest.mark.parametrize("name", ["exp", "mul", "mm", "sum", "_softmax", "native_layer_norm", "convolution_backward"])
def test_the_width_follows_the_unit(name):
    """Four bits less make every width 16 times as large: to first order, the noise being drawn from the same seeds."""
    truth = {key: y.numpy() for key, y in results(name, torch.float64, False).items()}

    def widths_of(unit):
        return spread.spread(lambda: results(name, torch.float64, False), truth, Rounding(unit, 0.0)).results

    fine, coarse = widths_of(2.0**-32), widths_of(2.0**-28)
    for key in truth:
        np.testing.assert_allclose(coarse[key], fine[key] * 16, rtol=1e-2)


@pytest.mark.parametrize("name", sorted(UNKNOWN))
def test_what_is_drawn_or_not_filled_is_exact(name):
    noise = Noise(widths.RULES, Rounding.of("float32"))
    with noise:
        x = torch.full((3, 4), 0.3, dtype=torch.float64)
        y = {
            "native_dropout": lambda: torch.ops.aten.native_dropout(x, 0.5, True)[1],
            "bernoulli_": lambda: x.bernoulli_(0.5),
            "new_empty": lambda: x.new_empty(3),
            "new_empty_strided": lambda: x.new_empty_strided((3,), (1,)),
            "resize_": lambda: x.resize_(2),
            "set_": lambda: x.set_(torch.zeros(3, dtype=torch.float64)),
        }.get(name, lambda: getattr(x, name)() if name.endswith("_") else getattr(torch, name)(x))()
    deviation = noise.deviations.of(y)
    assert deviation is None or not deviation.any()


def test_dropout_keeps_what_the_module_drew():
    """And the kept ones are divided by what is kept, which rounds."""
    x = torch.rand(64, dtype=torch.float64)
    torch.manual_seed(3)
    expected = torch.ops.aten.native_dropout(x, 0.3, True)
    noise = Noise(widths.RULES, Rounding.of("float32"))
    torch.manual_seed(3)
    with noise:
        y, kept = torch.ops.aten.native_dropout(x, 0.3, True)
    assert torch.equal(kept, expected[1])
    torch.testing.assert_close(y, expected[0], rtol=1e-6, atol=0)
    assert ((noise.deviations.of(y) > 0) == kept).all()


def gradients(y, inputs):
    return torch.autograd.grad(y, inputs, [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in y])


def test_lstm_and_gru_cells_are_those_of_torch():
    """Their fused kernels exist on CUDA only; taken apart they are the modules' own cells."""
    draw = Draw(torch.float64, True)
    x, h, c = draw.n(5, 4), draw.n(5, 3), draw.n(5, 3)
    lstm, gru = torch.nn.LSTMCell(4, 3).double(), torch.nn.GRUCell(4, 3).double()

    gates = [(x @ lstm.weight_ih.T).detach().requires_grad_(), (h @ lstm.weight_hh.T).detach().requires_grad_()]
    biases, cell = [lstm.bias_ih, lstm.bias_hh], c.clone().requires_grad_()
    hy, cy, workspace = apart_fused.lstm_cell(*gates, cell, *biases)
    for actual, expected in zip((hy, cy), lstm(x, (h, c)), strict=True):
        torch.testing.assert_close(actual, expected)
    dgates, dcell, dbias = gradients([hy, cy], [gates[0], cell, biases[0]])
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in (hy, cy)]
    for actual, expected in zip(
        apart_fused.lstm_cell_backward(*cotangents, c, cy, workspace, True), (dgates, dcell, dbias), strict=True
    ):
        torch.testing.assert_close(actual, expected)

    gates = [(x @ gru.weight_ih.T).detach().requires_grad_(), (h @ gru.weight_hh.T).detach().requires_grad_()]
    biases, state = [gru.bias_ih, gru.bias_hh], h.clone().requires_grad_()
    hy, workspace = apart_fused.gru_cell(*gates, state, *biases)
    torch.testing.assert_close(hy, gru(x, h))
    expected = gradients([hy], [*gates, state, *biases])
    for actual, its in zip(apart_fused.gru_cell_backward(cotangents[0], workspace, True), expected, strict=True):
        torch.testing.assert_close(actual, its)


def test_rms_norm_is_that_of_torch():
    """Fused on CUDA only."""
    draw = Draw(torch.float64, True)
    x, weight = draw.n(5, 8).requires_grad_(), draw.p(8).requires_grad_()
    y, rstd = apart_norms.rms_norm(x, [8], weight, 1e-5)
    torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, [8], weight, 1e-5))
    expected = gradients([y], [x, weight])
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    for actual, its in zip(
        apart_norms.rms_norm_backward(cotangent, x, [8], rstd, weight, [True, True]), expected, strict=True
    ):
        torch.testing.assert_close(actual, its)


TAKEN_APART = [name for name in SAMPLES if name in widths.apart.TABLE]


@pytest.mark.parametrize("name", TAKEN_APART)
def test_taken_apart_an_op_gives_the_same(name):
    """To float64's rounding, in all its results: without noise the mode only takes apart."""
    expected = results(name, torch.float64, True)
    with Noise(widths.RULES, Rounding(0.0, 0.0)):
        actual = results(name, torch.float64, True)
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-10, atol=1e-12)
