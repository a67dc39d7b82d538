"""The video model: what a pair of its two sides does not say. That they are equal: examples/parity_video.py."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import parity
from examples.video import flax_model, torch_model
from examples.video.config import Config, Recipe
from examples.video.flax_model import Options, blank

TINY = Config(depth=2, widths=(4, 6), attends=(False, False), heads=2, head_dim=4, bias_width=4, memory=3, time_width=4)
SHAPE = (2, 1, 5, 4, 6)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    model = torch_model.UNet(TINY)
    with torch.no_grad():
        for parameter in model.parameters():  # a fresh model hides its attentions behind zeros
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def port(reference, config=TINY, **options):
    model = blank(lambda: flax_model.UNet(config, Options(**options), rngs=nnx.Rngs(0)))
    parity.transfer(reference, model)
    return model


def draw(shape=SHAPE):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_no_frame_sees_a_later_one(reference):
    x, timestep = torch.from_numpy(draw()), torch.tensor([0.2, 0.7])
    changed = x.clone()
    changed[:, :, 3:] += 1
    with torch.no_grad():
        before, after = reference(x, timestep), reference(changed, timestep)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3:] - after[:, :, 3:]).abs().amin() > 0
    both_ways = torch_model.UNet(dataclasses.replace(TINY, causal=False))
    both_ways.load_state_dict(reference.state_dict())
    with torch.no_grad():
        assert not torch.equal(both_ways(x, timestep)[:, :, :3], both_ways(changed, timestep)[:, :, :3])


@pytest.mark.parametrize("causal", [True, False])
def test_convolutions_over_time_start_as_the_identity(causal):
    x = draw((2, 5, 4, 6, 4))
    for made in (
        torch_model.SpaceTimeConv(4, 4, 3, causal=causal),
        flax_model.SpaceTimeConv(4, 4, 3, causal=causal, options=Options(), rngs=nnx.Rngs(0)),
    ):
        given = torch.from_numpy(x) if isinstance(made, torch.nn.Module) else jnp.asarray(x)
        as_video, as_image = made(given, video=True), made(given, video=False)
        assert bool((as_video == as_image).all())


def test_an_image_skips_time(reference):
    other = torch_model.UNet(TINY)
    other.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if {"time", "time_bias"} & set(name.split(".")):
                parameter.add_(1)
    video, timestep = torch.from_numpy(draw((2, 1, 1, 4, 6))), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        assert torch.equal(reference(video[:, :, 0], timestep), other(video[:, :, 0], timestep))
        assert not torch.equal(reference(video, timestep), other(video, timestep))


@pytest.fixture(scope="module")
def stack(reference):
    """Two blocks of the model, what goes in, and the loss and gradients of the port with any options."""
    blocks = reference.middle
    x, timestep = draw((2, 3, 2, 3, 6)), draw((2, 4))

    @nnx.jit
    def both(model, x, timestep):
        def loss(model):
            return jnp.mean(model(x, timestep, video=True).astype(jnp.float32) ** 2)

        return nnx.value_and_grad(loss)(model)

    def of(**options):
        given = Options(**options)
        model = blank(lambda: flax_model.Level(6, 6, TINY, depth=2, options=given, rngs=nnx.Rngs(0)))
        parity.transfer(blocks, model)
        loss, gradients = both(model, x, timestep)
        return float(loss), jax.tree.leaves(gradients)

    return of


@pytest.fixture(scope="module")
def plain(stack):
    return stack()


@pytest.mark.parametrize("options", [{"remat": True}, {"remat": True, "scan": True}])
def test_remat_and_scan_change_nothing(stack, plain, options):
    (loss, gradients), (other, others) = plain, stack(**options)
    # Each is rounded in its own order: a few units of float32, of the largest gradient there is.
    assert abs(loss - other) <= 8 * np.finfo(np.float32).eps * loss
    allowed = 64 * np.finfo(np.float32).eps * max(float(jnp.abs(gradient).max()) for gradient in gradients)
    for one, two in zip(gradients, others, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=allowed)


def test_mixed_precision_keeps_weights_and_gradients_in_float32(stack, plain):
    loss, gradients = stack(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in gradients} == {jnp.dtype("float32")}
    assert 0 < abs(loss / plain[0] - 1) < 16 * 2**-9  # 16 bits are seen in the loss: 2^-9 is the rounding of one step


def test_position_biases_are_float32_in_a_16_bit_model():
    bias = torch_model.PositionBias(2, 4, 3).to(torch.bfloat16)(2, 5)
    port = flax_model.PositionBias(2, 4, 3, Options(param_dtype=jnp.bfloat16), nnx.Rngs(0))(2, 5)
    assert (bias.dtype, port.dtype) == (torch.float32, jnp.float32)
    assert bias.shape == port.shape == (3, 10, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": ()}, "one width a level"),
        ({"attends": (True,)}, "for each of the 2 levels"),
        ({"heads": 0}, "`heads` must be at least 1; got 0"),
        ({"widths": (4, 0)}, "`widths` must be at least 1"),
        ({"memory": -1}, "`memory` must be 0 or more"),
        ({"time_width": 5}, "even; got 5"),
    ],
)
def test_impossible_models_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 4, 4), r"expected an image \(b c h w\) or a video \(b c f h w\)"),
        ((1, 3, 4, 4), "expected 1 channels on axis 1"),
        ((1, 1, 5, 4, 7), "must be multiples of 2; got 4 and 7"),
    ],
)
def test_impossible_inputs_are_refused_by_both(reference, shape, words):
    with pytest.raises(ValueError, match=words):
        reference(torch.zeros(shape), torch.zeros(1))
    with pytest.raises(ValueError, match=words):
        port(reference)(jnp.zeros(shape), jnp.zeros(1))


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="`steps` must be 20 or more; got 5"):
        Recipe(steps=5)
    with pytest.raises(ValueError, match="must be multiples of 2; got 7 and 7"):
        Recipe(size=7).check(TINY)
