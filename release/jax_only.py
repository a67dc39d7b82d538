"""What a JAX user has: `attend_jax`, and no torch anywhere."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
from alone import check_missing
from flax import nnx

import attend_jax
import attend_jax.linen

assert "site-packages" in attend_jax.__file__, f"{attend_jax.__file__} is not the installed package"
assert importlib.util.find_spec("torch") is None, "there is a torch in the JAX-only environment"

query, key, value = (jax.random.normal(jax.random.key(n), (2, 4, length, 16)) for n, length in enumerate((5, 300, 300)))


def loss(query: jax.Array, implementation: str) -> jax.Array:
    return (attend_jax.attend(query, key, value, causal=True, implementation=implementation) ** 2).sum()


einsum, blockwise = (jax.grad(loss)(query, name) for name in ("einsum", "blockwise"))
assert jnp.allclose(einsum, blockwise, atol=1e-5), "einsum and blockwise differ"
module = attend_jax.Attend(dropout=0.1, causal=True, rngs=nnx.Rngs(0))
module.eval()
linen = attend_jax.linen.Attend(causal=True)
assert jnp.array_equal(module(query, key, value), linen.apply({}, query, key, value)), "nnx and Linen differ"
assert "runs" in str(attend_jax.explain(query, key, value))

check_missing("attend_torch", "torch")
print("attend_jax without torch:", sys.version.split()[0], "jax", jax.__version__)
