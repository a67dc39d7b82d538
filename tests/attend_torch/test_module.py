"""`Attend` for torch: options, training and evaluation, and that it is the function."""

from __future__ import annotations

import pytest
import torch

from attend_torch import Attend, attend

torch.manual_seed(0)
Q, K, V = torch.randn(2, 3, 5, 11), torch.randn(2, 3, 7, 11), torch.randn(2, 3, 7, 13)
BIAS, MASK = torch.randn(3, 5, 7), torch.rand(2, 1, 1, 7) < 0.8

# The module's options, and what the function is called with.
OPTIONS = [
    ({}, {}),
    ({"causal": True}, {"causal": "lower_right"}),
    ({"causal": "upper_left"}, {"causal": "upper_left"}),
    ({"flash": True}, {"implementation": "fused"}),
    ({"flash": True, "causal": True}, {"causal": "upper_left", "implementation": "fused"}),
    ({"flash": True, "causal": "lower_right"}, {"causal": "lower_right", "implementation": "fused"}),
    # The kernel can be chosen without moving the corner.
    ({"causal": True, "implementation": "fused"}, {"causal": "lower_right", "implementation": "fused"}),
    ({"flash": True, "causal": True, "implementation": "plain"}, {"causal": "upper_left"}),
    ({"scale": 0.3}, {"scale": 0.3}),
]


@pytest.mark.parametrize(("options", "how"), OPTIONS, ids=[str(options) for options, _ in OPTIONS])
@pytest.mark.parametrize("extras", [{}, {"bias": BIAS, "mask": MASK, "return_logsumexp": True}], ids=["", "extras"])
def test_the_module_is_the_function(options, how, extras):
    actual, expected = Attend(**options)(Q, K, V, **extras), attend(Q, K, V, **how, **extras)
    pairs = zip(actual, expected, strict=True) if isinstance(actual, tuple) else [(actual, expected)]
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_layout_is_an_option():
    swapped = (x.transpose(1, 2) for x in (Q, K, V))
    torch.testing.assert_close(Attend(layout="bnhd")(*swapped).transpose(1, 2), attend(Q, K, V))


def test_the_first_three_options_and_the_bias_are_positional_as_in_the_original():
    assert torch.equal(Attend(0.0, False, True)(Q, K, V, BIAS), attend(Q, K, V, BIAS, causal=True))
    with pytest.raises(TypeError):
        Attend(0.0, False, True, 0.5)


@pytest.mark.parametrize("flash", [False, True])
def test_train_switches_dropout_on_and_eval_off(flash):
    module = Attend(0.5, flash)
    assert module.training
    assert not torch.allclose(module(Q, K, V), attend(Q, K, V))
    assert torch.equal(module.eval()(Q, K, V), Attend(0.0, flash)(Q, K, V))


@pytest.mark.parametrize("flash", [False, True])
def test_a_dropout_mask_from_outside_decides_what_is_dropped(flash):
    keep = torch.rand(2, 3, 5, 7) < 0.5
    expected = attend(Q, K, V, dropout_rate=0.5, dropout_mask=keep)
    assert torch.equal(Attend(0.5, flash)(Q, K, V, dropout_mask=keep), expected)


def test_there_are_no_parameters_and_the_options_are_shown():
    module = Attend(0.1, True, "lower_right")
    assert module.state_dict() == {}
    assert repr(module) == "Attend(dropout=0.1, flash=True, causal='lower_right')"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"dropout": 1.5}, ValueError, "`dropout_rate` must lie between 0 and 1; got 1.5"),
        ({"dropout": "0.5"}, TypeError, "`dropout_rate` must be a number between 0 and 1; got str"),
        (
            {"causal": "right"},
            ValueError,
            "`causal` must be one of False, True, 'lower_right', 'upper_left'; got 'right'",
        ),
        ({"layout": "bhdn"}, ValueError, "`layout` must be one of 'bhnd', 'bnhd'; got 'bhdn'"),
        ({"implementation": "flash"}, ValueError, "`implementation` must be one of 'plain', 'fused'; got 'flash'"),
        ({"scale": float("inf")}, ValueError, "`scale` must be finite; got inf"),
    ],
    ids=str,
)
def test_bad_options_are_refused_when_the_module_is_built(options, kind, words):
    with pytest.raises(kind, match=words):
        Attend(**options)
