"""`nnx.Linear` whose kernel's gradient is cheap on a CPU; the numbers are the same.

From x (b n c) and the cotangent g (b n d) of the output, JAX's own gradient of the kernel (c d) is gᵀ·x, transposed.
XLA on the CPU then needs g as (d b n) too, a copy of the largest array there is where d are all heads, and multiplies
it by a slower routine. As xᵀ·g it takes g as it lies. Flattening x to ((b n) c) first does as much, but on a mesh that
cuts n every device would then have to see all of x. (jax 0.10.2; tests/examples/test_video_linear.py tells when the
file can go.)
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Linear(nnx.Linear):
    """(... c) to (... d). Arguments, weights and their names are those of `nnx.Linear`.

    There is no forward mode through it (`jax.jvp`, `jax.jacfwd`).
    """

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, dot_general=dot_general, **given)


def dot_general(x: jax.Array, kernel: jax.Array, _: Any, *, precision: Any = None, **__: Any) -> jax.Array:
    """As `nnx.Linear` calls it: the last axis of x by the first of the kernel."""
    return _product(precision, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.tensordot(x, kernel, 1, precision=precision)


def _forward(precision: Any, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(precision, x, kernel), (x, kernel)


def _backward(precision: Any, kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))
    return (
        jnp.tensordot(g, kernel.T, 1, precision=precision),
        jnp.tensordot(x, g, (rows, rows), precision=precision),
    )


_product.defvjp(_forward, _backward)
