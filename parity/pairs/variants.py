"""The Flax modules that `parity mutate --pair` holds against the torch one: as it is, honest ports, wrong ones."""

from __future__ import annotations

from typing import Any

from flax import nnx

from parity.pairs import planted
from parity.pairs.messages import HONEST, PLANTED, PORT, SUBTLE, WRONG
from parity.pairs.pair import Pair, takes_dtype


def names(pair: Pair, module: Any) -> tuple[str, ...]:
    """All of a pair's; nothing is planted in a Linen module."""
    found = [PORT, *(HONEST + name for name in pair.honest), *(WRONG + name for name in pair.wrong)]
    if isinstance(module, nnx.Module):
        found += [(SUBTLE if fault.subtle else PLANTED) + name for name, fault, _ in planted.plantable(module)]
    return tuple(found)


def make(pair: Pair, variant: str | None, dtype: Any) -> Any:
    """The module of that name, fresh, told the dtype if it wants to know."""
    factory = pair.flax
    if variant is not None and variant.startswith(HONEST):
        factory = pair.honest[variant.removeprefix(HONEST)]
    elif variant is not None and variant.startswith(WRONG):
        factory = pair.wrong[variant.removeprefix(WRONG)]
    module = factory(dtype=dtype) if takes_dtype(factory) else factory()
    if variant is not None and variant.startswith((PLANTED, SUBTLE)):
        planted.plant(module, variant.removeprefix(PLANTED).removeprefix(SUBTLE))
    return module
