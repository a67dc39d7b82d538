"""Transfer weights between a torch module and a Flax one, nnx or Linen, both ways. Loads a framework when needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from parity.weights.files import read, write
from parity.weights.layers import Layer, Tensor, WeightsError
from parity.weights.map import Entry, WeightMap
from parity.weights.plan import PlanError, Problem, plan
from parity.weights.rules import Rule, Rules

if TYPE_CHECKING:
    from parity.weights.flax_side import Linen

__all__ = [
    "Entry",
    "Layer",
    "PlanError",
    "Problem",
    "Rule",
    "Rules",
    "Tensor",
    "Transferred",
    "WeightMap",
    "WeightsError",
    "linen",
    "plan",
    "read",
    "transfer",
    "weight_map",
    "write",
]


@dataclasses.dataclass(frozen=True)
class Transferred:
    """The map that was used, and the target: the module itself, changed in place, or new Linen variables."""

    map: WeightMap
    target: Any


def transfer(
    source: Any, target: Any, *, rules: Rules = (), map: WeightMap | None = None, cast: bool = False
) -> Transferred:
    """Write the weights of one module into another of the other framework, whichever way round.

    A side is a torch module, an nnx module, what `linen` returns, or a dict of Linen variables. `rules` settle what
    structure, shapes and names do not; `map` is one made before, for modules with the same names. `cast` allows values
    to be rounded to the target's dtype. Raises `WeightsError` before anything is written: `PlanError`, with all
    problems and the nearest candidates, where the two do not correspond.

    >>> import torch
    >>> from flax import nnx
    >>> model, port = torch.nn.Linear(5, 7), nnx.Linear(5, 7, rngs=nnx.Rngs(0))
    >>> [entry.transform for entry in transfer(model, port).map.entries]
    ['linear', 'reshape']
    >>> bool((model.weight.detach().numpy().T == port.kernel).all())
    True
    """
    sides = _framework(source), _framework(target)
    if set(sides) != {"torch", "flax"}:
        raise WeightsError(
            f"expected a torch module and a Flax one, got {type(source).__name__} and {type(target).__name__}. A Linen "
            "module needs example inputs: parity.weights.linen(module, *inputs)"
        )
    from parity.weights import flax_side, torch_side

    to_flax = sides[0] == "torch"
    torch, flax = (source, target) if to_flax else (target, source)
    flax = flax_side.Linen(flax) if isinstance(flax, Mapping) else flax
    used = plan(torch_side.describe(torch), flax_side.describe(flax), rules) if map is None else map
    if to_flax:
        moved = used.to_flax(torch_side.arrays(torch), cast=cast)
        return Transferred(used, flax_side.load(flax, moved, keep=used.ignored("flax")))
    moved = used.to_torch(flax_side.arrays(flax), cast=cast)
    torch_side.load(torch, moved, keep=used.ignored("torch"))
    return Transferred(used, torch)


def weight_map(torch: Any, flax: Any, rules: Rules = ()) -> WeightMap:
    """The map alone, of two modules as `transfer` takes them; nothing is written."""
    from parity.weights import flax_side, torch_side

    flax = flax_side.Linen(flax) if isinstance(flax, Mapping) else flax
    return plan(torch_side.describe(torch), flax_side.describe(flax), rules)


def linen(module: Any, *inputs: Any, variables: Mapping[str, Any] | None = None, **kwargs: Any) -> Linen:
    """A Linen module with what tells its layers apart: example inputs (arrays or shapes), on which `init` is traced
    and not run. `variables` are those to read or to replace; a target needs none."""
    from parity.weights import flax_side

    return flax_side.Linen.of(module, *inputs, variables=variables, **kwargs)


def _framework(side: Any) -> Literal["torch", "flax", ""]:
    """By the names of its base classes, so that neither framework is loaded to ask."""
    bases = {f"{base.__module__}.{base.__qualname__}" for base in type(side).__mro__}
    if "torch.nn.modules.module.Module" in bases:
        return "torch"
    if "flax.nnx.module.Module" in bases or "parity.weights.flax_side.Linen" in bases:
        return "flax"
    return "flax" if isinstance(side, Mapping) else ""
