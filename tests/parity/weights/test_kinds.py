"""Each kind of layer: after a transfer both frameworks compute the same, and the way back gives every bit back.

Sizes are primes, so that no two axes are equal, and then square, where a forgotten transposition has the right shape.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity.weights import WeightsError, flax_side, kinds, torch_side, transfer, transforms
from parity.weights import linen as linen_model
from tests.parity.weights.pairs import bits, randomise, same_outputs, there_and_back

X = np.random.default_rng(7).standard_normal


def rngs():
    return nnx.Rngs(0)


# name, torch, Flax, input shape, whether Flax has the channels last
LAYERS = [
    ("linear", lambda: nn.Linear(5, 7), lambda: nnx.Linear(5, 7, rngs=rngs()), (3, 5), False),
    ("linear-square", lambda: nn.Linear(5, 5), lambda: nnx.Linear(5, 5, rngs=rngs()), (3, 5), False),
    (
        "linear-no-bias", lambda: nn.Linear(5, 7, bias=False), lambda: nnx.Linear(5, 7, use_bias=False, rngs=rngs()),
        (3, 5), False,
    ),
    (
        "linear-heads", lambda: nn.Linear(5, 21), lambda: Flat(nnx.LinearGeneral(5, (3, 7), rngs=rngs())),
        (2, 5), False,
    ),
    (
        "conv1d", lambda: nn.Conv1d(5, 7, 3), lambda: nnx.Conv(5, 7, (3,), padding="VALID", rngs=rngs()),
        (2, 5, 11), True,
    ),
    (
        "conv2d", lambda: nn.Conv2d(5, 7, (2, 3), stride=2),
        lambda: nnx.Conv(5, 7, (2, 3), strides=2, padding="VALID", rngs=rngs()), (2, 5, 11, 13), True,
    ),
    (
        "conv2d-square", lambda: nn.Conv2d(3, 3, 3, padding=1),
        lambda: nnx.Conv(3, 3, (3, 3), padding=1, rngs=rngs()), (2, 3, 5, 7), True,
    ),
    (
        "conv2d-groups", lambda: nn.Conv2d(6, 9, 3, groups=3),
        lambda: nnx.Conv(6, 9, (3, 3), padding="VALID", feature_group_count=3, rngs=rngs()), (2, 6, 5, 7), True,
    ),
    (
        "conv2d-depthwise", lambda: nn.Conv2d(5, 5, 3, groups=5, bias=False),
        lambda: nnx.Conv(5, 5, (3, 3), padding="VALID", feature_group_count=5, use_bias=False, rngs=rngs()),
        (2, 5, 5, 7), True,
    ),
    (
        "conv3d", lambda: nn.Conv3d(3, 5, (2, 3, 1)),
        lambda: nnx.Conv(3, 5, (2, 3, 1), padding="VALID", rngs=rngs()), (1, 3, 5, 7, 2), True,
    ),
    *(
        (
            f"conv_transpose{n}d{'-swapped' if swapped else ''}{'-square' if out == 5 else ''}",
            lambda n=n, out=out: getattr(nn, f"ConvTranspose{n}d")(5, out, (3, 4, 2)[:n], stride=2),
            lambda n=n, out=out, swapped=swapped: nnx.ConvTranspose(
                5, out, (3, 4, 2)[:n], strides=(2,) * n, padding="VALID", transpose_kernel=swapped, rngs=rngs()
            ),
            (2, 5, 7, 3, 2)[: n + 2], True,
        )
        for n in (1, 2, 3) for swapped in (False, True) for out in (5, 7) if n == 2 or out == 7
    ),
    ("layer_norm", lambda: nn.LayerNorm(7), lambda: nnx.LayerNorm(7, epsilon=1e-5, rngs=rngs()), (3, 7), False),
    (
        "layer_norm-no-bias", lambda: nn.LayerNorm(7, bias=False),
        lambda: nnx.LayerNorm(7, epsilon=1e-5, use_bias=False, rngs=rngs()), (3, 7), False,
    ),
    (
        "group_norm", lambda: nn.GroupNorm(2, 6), lambda: nnx.GroupNorm(6, num_groups=2, epsilon=1e-5, rngs=rngs()),
        (2, 6, 5), True,
    ),
    (
        "instance_norm", lambda: nn.InstanceNorm1d(5, affine=True),
        lambda: nnx.InstanceNorm(5, epsilon=1e-5, rngs=rngs()), (2, 5, 7), True,
    ),
    ("rms_norm", lambda: nn.RMSNorm(7, eps=1e-6), lambda: nnx.RMSNorm(7, epsilon=1e-6, rngs=rngs()), (3, 7), False),
    *(
        (
            f"batch_norm{n}d", lambda n=n: getattr(nn, f"BatchNorm{n}d")(5),
            lambda: nnx.BatchNorm(5, epsilon=1e-5, use_running_average=True, rngs=rngs()),
            (2, 5, 3, 2, 2)[: n + 2], True,
        )
        for n in (1, 2, 3)
    ),
    (
        "batch_norm-no-affine", lambda: nn.BatchNorm1d(5, affine=False),
        lambda: nnx.BatchNorm(5, epsilon=1e-5, use_bias=False, use_scale=False, use_running_average=True, rngs=rngs()),
        (2, 5, 3), True,
    ),
    ("prelu", lambda: nn.PReLU(), lambda: nnx.PReLU(), (3, 7), False),
]  # fmt: skip


class Flat(nnx.Module):
    """The heads put side by side, as torch has them."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize(("make", "port", "shape", "images"), [row[1:] for row in LAYERS], ids=[r[0] for r in LAYERS])
def test_a_layer_computes_the_same_after_a_transfer_and_comes_back(make, port, shape, images):
    model, other = randomise(make()), port()
    transfer(model, other)
    assert same_outputs(model, other, X(shape, np.float32), images=images) < 2e-5
    there_and_back(model, other)


def test_an_embedding_is_the_same_table():
    model, port = randomise(nn.Embedding(11, 5)), nnx.Embed(11, 5, rngs=rngs())
    transfer(model, port)
    assert same_outputs(model, port, np.array([[3, 0, 10]])) == 0
    there_and_back(model, port)


# Recurrent cells ------------------------------------------------------------------------------------------------------


def gru_with_both_biases():
    cell = nnx.GRUCell(5, 7, rngs=rngs())
    cell.dense_h = nnx.Linear(7, 21, rngs=rngs())
    return cell


def lstm_with_both_biases():
    cell = nnx.OptimizedLSTMCell(5, 7, rngs=rngs())
    cell.dense_i = nnx.Linear(5, 28, rngs=rngs())
    return cell


CELLS = [
    ("gru-both-biases", (nn.GRU, 5, 7, True), gru_with_both_biases, True),
    ("gru-no-bias", (nn.GRU, 5, 7, False), lambda: nnx.GRUCell(5, 7, rngs=rngs()), True),
    ("lstm", (nn.LSTM, 5, 7, True), lambda: nnx.LSTMCell(5, 7, rngs=rngs()), False),
    ("lstm-optimised", (nn.LSTM, 5, 7, True), lambda: nnx.OptimizedLSTMCell(5, 7, rngs=rngs()), False),
    ("lstm-square", (nn.LSTM, 5, 5, True), lambda: nnx.OptimizedLSTMCell(5, 5, rngs=rngs()), False),
    ("lstm-both-biases", (nn.LSTM, 5, 7, True), lstm_with_both_biases, True),
    ("lstm-no-bias", (nn.LSTM, 5, 7, False), lambda: nnx.LSTMCell(5, 7, rngs=rngs()), True),
    ("rnn", (nn.RNN, 5, 7, True), lambda: nnx.SimpleCell(5, 7, rngs=rngs()), False),
    ("rnn-no-bias", (nn.RNN, 5, 7, False), lambda: nnx.SimpleCell(5, 7, rngs=rngs()), True),
]


def recurrent(layer, inputs, hidden, bias):
    return layer(inputs, hidden, batch_first=True, bias=bias)


@pytest.mark.parametrize(("layer", "cell", "exact"), [row[1:] for row in CELLS], ids=[row[0] for row in CELLS])
def test_a_recurrent_layer_computes_the_same(layer, cell, exact):
    """`exact`: no biases are added up, so that the way back gives every bit back."""
    model, port = randomise(recurrent(*layer)), nnx.RNN(cell(), rngs=rngs())
    found = transfer(model, port)
    x = X((2, 4, 5), np.float32)
    assert same_outputs(model, port, x) < 1e-5
    if exact:
        there_and_back(model, port)
        return
    before = bits(flax_side.arrays(port))
    fresh = randomise(recurrent(*layer), seed=1)
    transfer(port, fresh)  # the sum in the first bias, zeros in the second
    assert same_outputs(fresh, port, x) < 1e-5
    assert not fresh.bias_hh_l0.detach().numpy().any()
    again = bits(found.map.to_flax(torch_side.arrays(fresh)))
    assert again == {name: before[name] for name in again}


def test_a_gru_whose_new_gate_has_a_recurrent_bias_needs_a_cell_that_has_it():
    """torch: n = tanh(W x + b + r * (W h + b')). nnx.GRUCell has no b'; what cannot be said there is not dropped."""
    model, port = randomise(nn.GRU(5, 7, batch_first=True)), nnx.RNN(nnx.GRUCell(5, 7, rngs=rngs()), rngs=rngs())
    before = bits(flax_side.arrays(port))
    with pytest.raises(WeightsError, match=r"`bias_hh_l0\[2/3\]`: expected zeros.*cell.dense_h = nnx.Linear"):
        transfer(model, port)
    assert bits(flax_side.arrays(port)) == before
    with torch.no_grad():
        model.bias_hh_l0[14:] = 0
    transfer(model, port)
    assert same_outputs(model, port, X((2, 4, 5), np.float32)) < 1e-5
    fresh = randomise(nn.GRU(5, 7, batch_first=True), seed=1)
    transfer(port, fresh)
    assert same_outputs(fresh, port, X((2, 4, 5), np.float32)) < 1e-5


@pytest.mark.parametrize(
    ("make", "cell"),
    [
        (nn.GRU, linen.GRUCell),
        (nn.LSTM, linen.LSTMCell),
        (nn.LSTM, linen.OptimizedLSTMCell),
        (nn.RNN, linen.SimpleCell),
    ],
    ids=["gru", "lstm", "lstm-optimised", "rnn"],
)
@pytest.mark.parametrize("alone", [False, True], ids=["module", "variables"])
def test_linen_has_a_parameter_for_each_gate(make, cell, alone):
    model = randomise(make(5, 7, batch_first=True))
    port, x = linen.RNN(cell(features=7)), X((2, 4, 5), np.float32)
    variables = port.init(jax.random.key(0), x)
    target = transfer(model, variables if alone else linen_model(port, x)).target
    assert same_outputs(model, lambda x: port.apply(target, x), x) < 1e-5
    fresh = randomise(make(5, 7, batch_first=True), seed=1)
    transfer(target if alone else linen_model(port, x, variables=target), fresh)
    assert same_outputs(fresh, lambda x: port.apply(target, x), x) < 1e-5


def test_levels_and_directions_of_a_recurrent_layer_are_layers_of_their_own():
    class Port(nnx.Module):
        def __init__(self):
            self.backward_1 = nnx.RNN(nnx.LSTMCell(14, 7, rngs=rngs()), reverse=True, keep_order=True, rngs=rngs())
            self.forward_0 = nnx.RNN(nnx.LSTMCell(5, 7, rngs=rngs()), rngs=rngs())
            self.backward_0 = nnx.RNN(nnx.LSTMCell(5, 7, rngs=rngs()), reverse=True, keep_order=True, rngs=rngs())
            self.forward_1 = nnx.RNN(nnx.LSTMCell(14, 7, rngs=rngs()), rngs=rngs())

        def __call__(self, x):
            for one, other in ((self.forward_0, self.backward_0), (self.forward_1, self.backward_1)):
                x = jnp.concatenate([one(x), other(x)], -1)
            return x

    model, port = randomise(nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)), Port()
    transfer(model, port)
    assert same_outputs(model, port, X((2, 4, 5), np.float32)) < 1e-5


def test_single_cells_are_the_same_kinds():
    model, port = randomise(nn.LSTMCell(5, 7)), nnx.LSTMCell(5, 7, rngs=rngs())
    transfer(model, port)
    h, c, x = (X(shape, np.float32) for shape in ((2, 7), (2, 7), (2, 5)))
    expected = model(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))[0].detach().numpy()
    np.testing.assert_allclose(port((jnp.asarray(c), jnp.asarray(h)), jnp.asarray(x))[1], expected, atol=1e-5)


# The tables -----------------------------------------------------------------------------------------------------------

# A torch shape that each transform takes, and Flax's.
SHAPES = {
    "identity": (((3, 5),), ((3, 5),)),
    "reshape": (((15,),), ((3, 5),)),
    "transpose": (((5, 3),), ((3, 5),)),
    "linear": (((6, 5),), ((5, 2, 3),)),
    "conv": (((7, 5, 2, 3),), ((2, 3, 5, 7),)),
    "conv_transpose": (((7, 5, 2, 3),), ((2, 3, 7, 5),)),
    "conv_transpose_swapped": (((7, 5, 2, 3),), ((2, 3, 5, 7),)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_transform_has_a_way_back(name):
    transform, (left, right) = transforms.get(name), SHAPES[name]
    assert transform.fits(left, right)
    assert not transform.fits(left, ((99,),))
    array = X(left[0])
    there = transform.to_flax((array,), right)
    assert there[0].shape == right[0]
    assert np.array_equal(transform.to_torch(there, left)[0], array)


def test_every_transform_is_tested_here_or_with_the_recurrent_cells():
    assert set(transforms.TABLE) == set(SHAPES) | {"sum", "zero", "ignored"}


def test_every_row_of_the_table_of_kinds_is_well_formed():
    for row in kinds.TABLE:
        for move in row.moves:
            assert move.transform in transforms.TABLE
            assert move.torch or move.flax
