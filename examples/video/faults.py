"""Wrong ports, to see that the checks would notice: each changes a right Flax model in place, by name."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from attend_jax import Attend

from .flax_model import LayerNorm, PositionBias


class FrozenBias(PositionBias):
    """Right values, no gradient."""

    def __call__(self, *sizes: int) -> jax.Array:
        return jax.lax.stop_gradient(super().__call__(*sizes))


class MirroredBias(PositionBias):
    """Distances from the other end."""

    def __call__(self, *sizes: int) -> jax.Array:
        return super().__call__(*sizes).swapaxes(1, 2)


def bias_gradient(model: nnx.Module) -> None:
    _become(model, PositionBias, FrozenBias)


def bias_mirrored(model: nnx.Module) -> None:
    _become(model, PositionBias, MirroredBias)


def epsilon(model: nnx.Module) -> None:
    for norm in _modules(model, LayerNorm):
        norm.epsilon = 1e-6


def not_causal(model: nnx.Module) -> None:
    for attend in _modules(model, Attend):
        attend.causal = False


def upper_left(model: nnx.Module) -> None:
    """With a memory there are more keys than queries, and the corners are not the same."""
    for attend in _modules(model, Attend):
        if attend.causal:
            attend.causal = "upper_left"


FAULTS: dict[str, Callable[[nnx.Module], None]] = {
    "bias-gradient": bias_gradient,
    "bias-mirrored": bias_mirrored,
    "epsilon": epsilon,
    "not-causal": not_causal,
    "upper-left": upper_left,
}


def _modules(model: nnx.Module, kind: type[nnx.Module]) -> list[nnx.Module]:
    found = [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]
    if not found:
        raise ValueError(f"this fault is one of {kind.__name__}, and the model has none")
    return found


def _become(model: nnx.Module, kind: type[nnx.Module], wrong: type[nnx.Module]) -> None:
    for module in _modules(model, kind):
        module.__class__ = wrong
