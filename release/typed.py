"""The public API as a user's type checker sees it, by the packages' own annotations: checked, not run."""

from typing import assert_type

import jax
import torch
from flax import nnx

import attend_jax
import attend_jax.linen
import attend_torch
import parity
from parity.results import Report

array, tensor = jax.numpy.ones((1, 1, 2, 4)), torch.ones(1, 1, 2, 4)

explanation = attend_jax.explain(array, array, array)
assert_type(explanation, attend_jax.Explanation)
assert_type(explanation.others, dict[str, str])
attend_jax.attend(array, array, array, causal="upper_left", implementation="einsum")
attend_jax.Attend(0.1, True, causal=True, rngs=nnx.Rngs(0))(array, array, array)
attend_jax.linen.Attend(0.1, causal=True).apply({}, array, array, array)
attend_jax.dot_product_attention(array, array, array, mask=array > 0, implementation="einsum")
assert_type(attend_jax.KeyValueCache.zeros((2, 8, 16, 64)).append(array, array), attend_jax.KeyValueCache)
attend_torch.Attend(0.1, causal=True)(tensor, tensor, tensor)
assert_type(parity.check_attention(attend_jax.attend, suite="smoke"), Report)
pair = parity.Pair(
    torch=torch.nn.ReLU, flax=lambda: jax.nn.relu, inputs={"x": parity.Input("n 8")}, sizes={"n": (3, 5)}
)
assert_type(pair.runs, tuple[dict[str, int], ...])
assert_type(parity.assert_parity(pair, seed=1).exit_code, int)

# And what is wrong is found: with `warn_unused_ignores` an ignore without an error is one.
attend_jax.attend(array, array)  # type: ignore[call-arg]
attend_jax.Attend(causal=1.5)  # type: ignore[arg-type]
attend_torch.Attend(droput=0.1)  # type: ignore[call-arg]
parity.Pair(torch=3, flax=lambda: None, inputs={})  # type: ignore[arg-type]
parity.check("examples", sede=1)  # type: ignore[call-arg]
