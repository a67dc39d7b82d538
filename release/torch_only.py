"""What a torch user has: `attend_torch`, and no JAX anywhere."""

import importlib.util
import sys

import torch
from alone import check_missing

import attend_torch

assert "site-packages" in attend_torch.__file__, f"{attend_torch.__file__} is not the installed package"
for name in ("jax", "flax"):
    assert importlib.util.find_spec(name) is None, f"there is a {name} in the torch-only environment"

query, key, value = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (5, 7, 7))
plain, fused = (attend_torch.attend(query, key, value, causal=True, implementation=name) for name in ("plain", "fused"))
torch.testing.assert_close(plain, fused)
(query_gradient,) = torch.autograd.grad(plain.sum(), [query])
assert query_gradient.shape == query.shape
module = attend_torch.Attend(dropout=0.1, causal=True).eval()
torch.testing.assert_close(module(query, key, value), plain)

check_missing("attend_jax", "jax")
print("attend_torch without JAX:", sys.version.split()[0], "torch", torch.__version__)
