"""The dispatch mode: uses have noise of their own, deviations follow memory, what has no rule is said."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from parity.montecarlo import noise as noise_module
from parity.montecarlo.noise import Noise
from parity.montecarlo.results import Rounding
from parity.montecarlo.widths import RULES

SINGLE = Rounding.of("float32")
U = SINGLE.unit


def single(seed=0):
    return Noise(RULES, SINGLE, seed)


def numbers(*shape, seed=0):
    """Numbers that float32 has."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32)).double()


def test_inputs_are_exact_and_results_are_not():
    x, mode = numbers(50), single()
    with mode:
        y = x * x
    assert torch.equal(y, x * x)
    assert mode.deviations.of(x) is None
    torch.testing.assert_close(mode.deviations.of(y).double(), U * y.abs(), rtol=1e-6, atol=1e-30)


def test_each_use_of_a_tensor_has_its_own_noise():
    """Of the same tensor in two ops, and of the same tensor twice in one."""
    x, mode = numbers(1000), single()
    with mode:
        y = torch.exp(x)
        first, second, difference = y * 3.0, y * 3.0, y - y
    size = torch.exp(x) * U
    assert not (first == second).any()
    for noise in ((first - second) / 3 / size, difference / size):
        assert 1.3 < noise.std() < 1.5  # two independent ones: the root of 2
    torch.testing.assert_close(first, torch.exp(x) * 3, rtol=1e-6, atol=0)


def test_a_run_can_be_repeated_and_leaves_the_modules_own_randomness_alone():
    x = numbers(100)

    def run(seed):
        with single(seed):
            return torch.exp(torch.exp(x) * x)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = run(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)


def test_numbers_that_an_expanded_tensor_repeats_have_one_noise():
    x, mode = numbers(7, 1), single()
    with mode:
        y = torch.exp(x).expand(7, 5) * 3.0
    assert (y == y[:, :1]).all()
    assert (y != torch.exp(x) * 3).all()


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.view(2, 3, 5), lambda y: y.t(), lambda y: y[2:4, ::2], lambda y: y.unfold(0, 3, 1),
        lambda y: y.as_strided((3, 2), (5, 1), 1), lambda y: y.diagonal(), lambda y: y.detach(),
        lambda y: y.chunk(2)[1],
        lambda y: y.expand(4, 6, 5), lambda y: y.permute(1, 0)[..., None].squeeze(-1), lambda y: y.unbind(1)[2],
    ],
)  # fmt: skip
def test_a_view_sees_the_deviation_through_itself(view):
    x, mode = numbers(6, 5), single()
    with mode:
        y = view(torch.exp(x))
    expected = view((U * torch.exp(x)).float())
    torch.testing.assert_close(mode.deviations.of(y), expected, rtol=1e-6, atol=0)


def test_writing_through_a_view_is_seen_in_all():
    x, mode = numbers(6, 5), single()
    with mode:
        y = torch.zeros(6, 5, dtype=torch.float64)
        rows = y[1:3]
        rows.copy_(torch.exp(x[1:3]))
        rows.mul_(2.0)  # exact
        y[5].add_(x[5]).exp_()
        y[1, 0] = 0.5
    deviation = mode.deviations.of(y).double()
    expected = torch.zeros_like(x)
    expected[1:3], expected[5] = 2 * U * torch.exp(x[1:3]), U * torch.exp(x[5])
    expected[1, 0] = 0
    torch.testing.assert_close(deviation, expected, rtol=1e-4, atol=0)


def test_saved_results_are_known_in_the_backward_pass():
    """exp saves its result: autograd hands another object back, of the same memory."""
    x, mode = numbers(200).requires_grad_(), single()
    with mode:
        (grad,) = torch.autograd.grad(torch.exp(x).sum(), x)
    noise = (grad - torch.exp(x)).detach() / (U * torch.exp(x).detach())
    assert 0.8 < noise.std() < 1.2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.zeros_like(x), lambda x: torch.ones(3, dtype=torch.float64), lambda x: torch.eye(3).double(),
        lambda x: torch.arange(5.0).double(), lambda x: -x, lambda x: x.abs(), lambda x: x.relu(), lambda x: x * 4,
        lambda x: x / 0.5, lambda x: x.clone(), lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.cat([x, x]),
        lambda x: x.masked_fill(x > 0, -1e38), lambda x: x.masked_fill(x > 0, -torch.inf), lambda x: x.round(),
        lambda x: torch.nn.functional.pad(x, (1, 1)), lambda x: x.max(),
        lambda x: x.sort().values, lambda x: x.clamp(-0.5),
    ],
)  # fmt: skip
def test_what_is_exact_by_construction_has_no_noise(function):
    mode = single()
    with mode:
        y = function(numbers(20))
    deviation = mode.deviations.of(y)
    assert deviation is None or not deviation.any()


def test_a_masks_fill_is_exact_and_what_is_beside_it_is_not():
    mode = single()
    with mode:
        y = numbers(4) + torch.tensor([-1e38, 0.3, -torch.inf, torch.nan], dtype=torch.float64)
        p = torch.softmax(y[:3], -1)
    assert (mode.deviations.of(y) > 0).tolist() == [False, True, False, False]
    assert torch.isfinite(p).all()


def test_numbers_in_the_programs_text_are_rounded_if_the_dtype_lacks_them():
    mode = single()
    with mode:
        y = torch.tensor([0.1, 0.5, 3.0, 2.0**-30], dtype=torch.float64) * 1
        z = numbers(4) + 0.1
    expected = U * torch.tensor([0.1, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(mode.deviations.of(y).double(), expected, rtol=1e-6, atol=0)
    assert (mode.deviations.of(z) >= 0.1 * U).all()


def test_an_op_without_a_rule_is_counted_and_has_noise():
    """lgamma, and an op of the user's own; the determinant's is in proportion to what its inputs' rounding does."""
    x, mode = numbers(30).abs() + 3, single()
    with mode:
        y = torch.lgamma(x)
        z = torch.linalg.inv(numbers(5, 5))
    assert mode.unruled["lgamma"] == 1
    assert "linalg_inv_ex" in mode.unruled
    assert (mode.deviations.of(y) > 0).all()
    assert ((y - torch.lgamma(x)).abs() > 0).any()
    assert (mode.deviations.of(z) > 0).all()


def test_what_is_not_in_the_table_is_taken_apart_by_torch():
    """Losses and activations of the decomposition table; nothing is left without a rule."""
    x, y, mode = numbers(8, 5).requires_grad_(), numbers(8, 5, seed=1), single()
    ids = torch.arange(8) % 5
    functional = torch.nn.functional
    with mode:
        for loss in (
            functional.mse_loss(x, y), functional.smooth_l1_loss(x, y), functional.huber_loss(x, y),
            functional.cross_entropy(x, ids), functional.binary_cross_entropy_with_logits(x, y.sigmoid()),
            functional.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
            functional.softplus(x).sum(), functional.mish(x).sum(),
            functional.hardswish(x).sum(), functional.elu(x).sum(), functional.leaky_relu(x).sum(),
            functional.glu(x[:, :4]).sum(), functional.logsigmoid(x).sum(), functional.selu(x).sum(),
            functional.cosine_similarity(x, y).sum(), functional.normalize(x).sum(), x.std() + x.norm(),
            torch.einsum("ij,kj->ik", x, y).sum(), torch.cumsum(x, 0).prod(0).sum(), functional.rms_norm(x, (5,)).sum(),
            functional.interpolate(x[None, None], scale_factor=2, mode="bicubic").sum(),
            functional.hardsigmoid(x).sum(),
        ):  # fmt: skip
            torch.autograd.grad(loss, x)
        functional.grid_sample(numbers(1, 2, 5, 5), numbers(1, 3, 3, 2, seed=1) / 3, align_corners=False)
    assert not mode.unruled


def test_memory_is_let_go_with_its_tensors(monkeypatch):
    """And its shadow is not another tensor's, when the address is given away again."""
    import parity.montecarlo.deviations as module

    monkeypatch.setattr(module, "SWEEP_BYTES", 40_000)
    mode = single()
    with mode:
        for _ in range(200):
            y = torch.exp(numbers(1000))
            z = torch.empty(1000, dtype=torch.float64)
            assert mode.deviations.of(z) is None
            del z
    gc.collect()
    assert len(mode.deviations._shadows) < 25
    assert mode.deviations.of(y) is not None


def test_complex_numbers_have_noise_in_both_parts():
    mode, x = single(), torch.complex(numbers(50), numbers(50, seed=1))
    with mode:
        y = x * x
        z = torch.view_as_real(y * y)
    error = z - torch.view_as_real(x**4)
    assert (error.abs() > 0).all()
    assert error.abs().max() < 1e-4
    assert (mode.deviations.of(z) > 0).all()


def test_what_is_flushed_to_zero_has_the_width_of_that():
    mode = single()
    with mode:
        y = torch.full((100,), 2.0**-100, dtype=torch.float64) * 2.0**-10 * 3.0
        z = torch.sqrt(y * 2.0**-30 * 3.0)
    assert torch.isfinite(z).all()
    assert pytest.approx(float(mode.rounded(y * 2.0**-30 * 3)[0]), rel=0.01) == noise_module.FLUSHED * 9 * 2.0**-140


def test_whole_numbers_are_counted_exactly():
    """Masks, lengths and positions that are floats: no noise can send one below the next integer."""
    mode = single()
    with mode:
        mask = (numbers(7, 9) > 0).double()
        count = mask.sum(-1)
        position = (mask.cumsum(-1) * mask + 1.0).long()
        picked = numbers(20, 3)[position] * (count[:, None, None] - 1)
    assert torch.equal(position, (mask.cumsum(-1) * mask + 1).long())
    for tensor in (count, mask @ mask.T):
        assert mode.deviations.of(tensor) is None or not mode.deviations.of(tensor).any()
    assert (mode.deviations.of(picked) > 0).any()
