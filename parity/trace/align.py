"""Which module of torch's is which of Flax's, and which call: by the weights that lie in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from parity.trace.messages import ROOT, Module, Traced
from parity.weights import Layer, WeightMap

_OVER_TIME = ("LSTM", "GRU", "RNN")
_PLAIN = ("parameter", "buffer")


@dataclasses.dataclass(frozen=True)
class Aligned:
    """A call of both sides. `parameters` are torch's names of those that no submodule with a call of its own holds."""

    torch: str
    flax: str
    torch_module: Module
    flax_module: Module
    parameters: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The torch module's path."""
        return self.torch.partition("#")[0]


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The calls of both sides in the order in which torch's end, and what has no counterpart, with the reason."""

    calls: tuple[Aligned, ...]
    left_out: tuple[str, ...]


def align(
    torch: Traced, flax: Traced, found: WeightMap, layers: tuple[Sequence[Layer], Sequence[Layer]], *, linen: bool
) -> Alignment:
    """Modules that hold the same weights are the same. Where several do, one within the other (a block around a single
    Linear), they are paired from the outside in if there are as many on both sides; a layer of a known kind is one on
    both or on neither. What holds no weights is paired within its container, by class, if both have as many."""
    modules = {m.path: m for m in torch.modules}, {m.path: m for m in flax.modules}
    held = _held(found, "torch", modules[0], 0), _held(found, "flax", modules[1], 1 if linen else 0)
    known = tuple({layer.path for layer in side if layer.kind not in _PLAIN} for side in layers)
    pairs = {"": ""}
    chains: dict[frozenset[int], tuple[list[str], list[str]]] = {}
    for side in (0, 1):
        for path, entries in held[side].items():
            if entries and path and _is_called(modules[side][path]):
                chains.setdefault(entries, ([], []))[side].append(path)
    for left, right in chains.values():
        left, right = sorted(left, key=len), sorted(right, key=len)
        if left and modules[0][left[-1]].kind in _OVER_TIME:  # Flax has the loop around the cell
            while right and not modules[1][right[-1]].kind.endswith("RNN"):
                right.pop()
            pairs |= dict(zip(left[-1:], right[-1:], strict=False))
            left, right = left[:-1], right[:-1]
        pairs |= _chained(left, right, *known)
    for one, other in list(pairs.items()):
        pairs |= _without_weights(one, other, modules, held)
    return _calls(pairs, torch, flax, modules)


def _held(found: WeightMap, side: str, modules: Collection[str], strip: int) -> dict[str, frozenset[int]]:
    """Which entries of the map lie in a module, by its path."""
    held: dict[str, set[int]] = {path: set() for path in modules}
    for index, entry in enumerate(found.entries):
        if entry.torch and entry.flax:
            for tensor in getattr(entry, side):
                for name in (tensor.path, *tensor.names):
                    parts = name.split(".")[strip:]
                    for end in range(len(parts)):
                        held.get(".".join(parts[:end]), set()).add(index)
    return {path: frozenset(entries) for path, entries in held.items()}


def _is_called(module: Module) -> bool:
    """Lists and dictionaries only hold others."""
    return module.kind not in ("ModuleList", "ModuleDict", "nnx.List", "nnx.Dict")


def _chained(left: list[str], right: list[str], torch_known: set[str], flax_known: set[str]) -> dict[str, str]:
    """Modules one within the other, the outermost first."""
    pairs: dict[str, str] = {}
    if not left or not right:
        return pairs
    inner = left[-1] in torch_known, right[-1] in flax_known
    if all(inner):
        pairs[left.pop()] = right.pop()
    elif any(inner):
        (left if inner[0] else right).pop()
    if len(left) == len(right):
        pairs |= dict(zip(left, right, strict=True))
    return pairs


def _without_weights(
    torch: str,
    flax: str,
    modules: tuple[Mapping[str, Module], Mapping[str, Module]],
    held: tuple[Mapping[str, frozenset[int]], Mapping[str, frozenset[int]]],
) -> dict[str, str]:
    """Dropout is Dropout: the direct children of two aligned modules, by class."""
    by_class: list[dict[str, list[str]]] = []
    for side, above in enumerate((torch, flax)):
        found: dict[str, list[str]] = {}
        for path, module in modules[side].items():
            if path and path.rpartition(".")[0] == above and not held[side][path] and _is_called(module):
                found.setdefault(module.kind.rpartition(".")[2].lower(), []).append(path)
        by_class.append(found)
    pairs: dict[str, str] = {}
    for kind, left in by_class[0].items():
        right = by_class[1].get(kind, [])
        if len(left) == len(right):
            pairs |= dict(zip(left, right, strict=True))
    return pairs


def _calls(
    pairs: Mapping[str, str], torch: Traced, flax: Traced, modules: tuple[Mapping[str, Module], Mapping[str, Module]]
) -> Alignment:
    calls = _by_path(torch.calls), _by_path(flax.calls)
    partner: dict[str, str] = {}
    left_out = []
    for one, other in pairs.items():
        mine, theirs = calls[0].get(one, []), calls[1].get(other, [])
        if len(mine) == len(theirs):
            partner |= dict(zip(mine, theirs, strict=True))
        else:
            inside = ", or inside jit, scan or the like" if not theirs else ""
            why = flax.silent.get(other) or f"called {_times(mine)} in torch, {_times(theirs)} in Flax{inside}"
            left_out.append(f"{one} <-> {other}: {why}")
    for side, aligned in ((0, pairs.keys()), (1, set(pairs.values()))):
        for path, module in modules[side].items():
            if path not in aligned and _is_called(module) and (side or path in calls[0]):
                words = f"{path} ({module.kind}): no counterpart in {'torch' if side else 'Flax'}"
                left_out.append(f"{words}; {flax.silent[path]}" if side and path in flax.silent else words)
    containers = sorted({call.partition("#")[0] for call in partner}, key=len, reverse=True)
    owned = _owned(torch, containers)
    aligned_calls = (
        Aligned(
            call, partner[call], modules[0][call.partition("#")[0]], modules[1][partner[call].partition("#")[0]],
            tuple(owned.get(call.partition("#")[0], ())),
        )
        for call in torch.calls if call in partner
    )  # fmt: skip
    return Alignment(tuple(aligned_calls), tuple(left_out))


def _owned(torch: Traced, containers: Sequence[str]) -> dict[str, list[str]]:
    """Each parameter with a gradient, by the innermost of the modules that holds it."""
    owned: dict[str, list[str]] = {}
    start = "reference/d("
    for name in (name.removeprefix(start)[:-1] for name in torch.arrays if name.startswith(start)):
        inner = next((path for path in containers if not path or name.startswith(path + ".")), "")
        owned.setdefault(inner, []).append(name)
    return owned


def _by_path(calls: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for call in calls:
        found.setdefault(call.partition("#")[0], []).append(call)
    assert found[""] == [ROOT]
    return found


def _times(calls: Sequence[str]) -> str:
    return {0: "never", 1: "once"}.get(len(calls), f"{len(calls)} times")
