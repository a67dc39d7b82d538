"""Ports to Flax by other people: two honest ones, and one that takes causal for the upper left corner."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from functions import of_jax


def attend(q, k, v, bias, corner):
    """S1 to S4, S8 with a triangle whose diagonal starts at `corner`."""
    if corner is None:
        return of_jax(q, k, v, bias)
    scores = jnp.einsum("bhid,bhjd->bhij", q, k, precision="highest") * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool), corner)
    scores = jnp.where(seen, scores, jnp.finfo(q.dtype).min)
    return jnp.einsum("bhij,bhjd->bhid", jax.nn.softmax(scores), v, precision="highest")


class Nnx(nnx.Module):
    def __init__(self, dropout=0.0, flash=False, causal=False, *, rngs=None):
        del dropout, rngs
        self.flash, self.causal = flash, causal

    def __call__(self, q, k, v, bias=None):
        corner = 0 if self.flash else k.shape[-2] - q.shape[-2]
        return attend(q, k, v, bias, corner if self.causal else None)


class UpperLeft(Nnx):
    def __call__(self, q, k, v, bias=None):
        return attend(q, k, v, bias, 0 if self.causal else None)


class Linen(nn.Module):
    causal: bool = False

    @nn.compact
    def __call__(self, q, k, v, bias=None):
        return attend(q, k, v, bias, k.shape[-2] - q.shape[-2] if self.causal else None)
