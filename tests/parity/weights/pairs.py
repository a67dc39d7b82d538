"""What the tests of `parity.weights` share: random weights, runs of both frameworks, bits compared."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import torch

from parity.weights import flax_side, torch_side, transfer


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter and buffer, so that a scale of ones or a bias of zeros hides nothing. Variances are positive."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                numbers = torch.from_numpy(rng.standard_normal(tuple(tensor.shape), np.float32)) * 0.5
                tensor.copy_(numbers.abs() + 0.5 if name.endswith("running_var") else numbers)
    return module.eval()


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


def same_outputs(torch_module, flax_call, x: np.ndarray, *, images: bool = False) -> float:
    """The greatest difference of the two outputs on one input; with `images` Flax has the channels last."""
    with torch.no_grad():
        expected = torch_module(torch.from_numpy(x))
    expected = np.asarray(expected[0] if isinstance(expected, tuple) else expected)
    actual = np.asarray(flax_call(jnp.asarray(channels_last(x) if images and x.ndim > 1 else x)))
    expected = channels_last(expected) if images and expected.ndim > 1 else expected
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max()) if expected.size else 0.0


def bits(arrays):
    return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in arrays.items()}


def there_and_back(model: torch.nn.Module, port, **keywords) -> None:
    """torch to Flax to another torch module gives back every bit, and so does Flax to torch to Flax."""
    before = bits(torch_side.arrays(model))
    found = transfer(model, port, **keywords)
    port = found.target if isinstance(port, flax_side.Linen) is False else flax_side.Linen(found.target, port.kinds)
    after = bits(flax_side.arrays(port))
    randomise(model, seed=1)
    transfer(port, model, map=found.map)
    again = bits(torch_side.arrays(model))
    ignored = found.map.ignored("torch")
    assert {n: b for n, b in again.items() if n not in ignored} == {n: b for n, b in before.items() if n not in ignored}
    flax_arrays = found.map.to_flax(torch_side.arrays(model))
    assert bits(flax_arrays) == {n: b for n, b in after.items() if n not in found.map.ignored("flax")}
