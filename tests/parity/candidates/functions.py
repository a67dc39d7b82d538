"""Plain functions: one that says its framework by annotation, and one that only shows it when called."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def annotated(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    scores = jnp.einsum("bhid,bhjd->bhij", q, k, precision="highest") * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias)
    return jnp.einsum("bhij,bhjd->bhid", weights, v, precision="highest")


def of_jax(q, k, v, bias=None):
    return annotated(q, k, v, bias)
