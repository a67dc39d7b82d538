"""The Flax modules that `parity mutate --pair` holds against the torch one: as it is, honest ports, wrong ones."""

from __future__ import annotations

from typing import Any

from flax import nnx

from parity.pairs import planted
from parity.pairs.messages import HONEST, PLANTED, PORT, SUBTLE, WRONG
from parity.pairs.pair import Pair


def names(pair: Pair, module: Any) -> tuple[str, ...]:
    """All of a pair's; nothing is planted in a Linen module."""
    found = [PORT, *(HONEST + name for name in pair.honest), *(WRONG + name for name in pair.wrong)]
    if isinstance(module, nnx.Module):
        found += [(SUBTLE if fault.subtle else PLANTED) + name for name, fault, _ in planted.plantable(module)]
    return tuple(found)


def make(pair: Pair, variant: str | None) -> Any:
    """The module of that name, fresh."""
    if variant is None or variant == PORT:
        return pair.flax()
    if variant.startswith(HONEST):
        return pair.honest[variant.removeprefix(HONEST)]()
    if variant.startswith(WRONG):
        return pair.wrong[variant.removeprefix(WRONG)]()
    module = pair.flax()
    planted.plant(module, variant.removeprefix(PLANTED).removeprefix(SUBTLE))
    return module
