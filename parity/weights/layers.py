"""What is known of a module's weights without its framework: layers, and the tensors that they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from parity.errors import BadInput

Shape = tuple[int, ...]


class WeightsError(BadInput):
    """The weights of two modules do not correspond, or an array is not what the map says. Says what to do."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The `index`-th of `count` equal pieces along `axis`: a query projection in a packed q, k, v; one gate of four."""

    index: int
    count: int
    axis: int

    def slices(self, shape: Shape) -> tuple[slice, ...]:
        """Where it lies in a tensor of this shape."""
        axis = self.axis % len(shape)
        size = shape[axis] // self.count
        return (slice(None),) * axis + (slice(self.index * size, (self.index + 1) * size),)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A parameter or buffer, or a part of one.

    `path` is its name in the module, `shape` that of the whole, and `names` its other names, if it is tied.

    >>> packed = Tensor("attn.in_proj_weight", (15, 5), "float32")
    >>> packed.piece(1, 3, axis=0).shown, packed.piece(1, 3, axis=0).size
    ('attn.in_proj_weight[1/3]', (5, 5))
    """

    path: str
    shape: Shape
    dtype: str
    part: Part | None = None
    names: tuple[str, ...] = ()

    def piece(self, index: int, count: int, axis: int) -> Tensor:
        """A part of this tensor. Raises `WeightsError` where its axis cannot be cut so, or it is a part already."""
        if self.part is not None or not self.shape or self.shape[axis] % count or not 0 <= index < count:
            raise WeightsError(
                f"`{self.shown}[{index}/{count}]`: expected an axis that {count} equal parts fill and a part from 0 to "
                f"{count - 1}, got shape {self.size} and axis {axis}"
            )
        return dataclasses.replace(self, part=Part(index, count, axis))

    @property
    def size(self) -> Shape:
        """The shape of the part that is meant."""
        if self.part is None:
            return self.shape
        sizes = list(self.shape)
        sizes[self.part.axis] //= self.part.count
        return tuple(sizes)

    @property
    def shown(self) -> str:
        """As rules, tables and errors write it."""
        return self.path if self.part is None else f"{self.path}[{self.part.index}/{self.part.count}]"


@dataclasses.dataclass(frozen=True)
class Layer:
    """Tensors that one mapping takes together: a Linear's weight and bias, an LSTM's gates.

    `kind` is a kind of `kinds.py`, and the keys of `tensors` are its roles. `names` are the layer's other paths, if
    it is used in several places. `optional` says why it may have no partner on the other side; "" means it must.
    """

    path: str
    kind: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, int] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()
    optional: str = ""

    @property
    def shown(self) -> str:
        """Path, kind and shapes, for errors."""
        shapes = ", ".join(f"{role} {tensor.size}" for role, tensor in self.tensors.items())
        return f"{self.where} ({self.kind}: {shapes})"

    @property
    def where(self) -> str:
        """Its path, for errors."""
        return f"`{self.path}`" if self.path else "the module itself"


@dataclasses.dataclass(frozen=True)
class Found:
    """A tensor as a side's reader came upon it. `key` is the same for all names of one storage."""

    path: str
    shape: Shape
    dtype: str
    key: int


def tie(layers: tuple[Layer, ...], found: tuple[Found, ...]) -> tuple[Layer, ...]:
    """Name each storage by its first name, and take layers that hold the same storages as one with several names.

    A layer all of whose tensors are held by others of another kind (an output projection tied to the embedding) is
    optional: the other side may do without it.
    """
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    key = {item.path: item.key for item in found}
    for item in found:
        names.setdefault(first.setdefault(item.key, item.path), []).append(item.path)
    canonical = {path: first[key[path]] for path in key}
    merged: dict[tuple[object, ...], Layer] = {}
    for layer in layers:
        tensors = {
            role: dataclasses.replace(
                tensor, path=canonical[tensor.path], names=tuple(names[canonical[tensor.path]][1:])
            )
            for role, tensor in layer.tensors.items()
        }
        place = (layer.kind, tuple((role, tensor.path, tensor.part) for role, tensor in tensors.items()))
        if place in merged:
            seen = merged[place]
            merged[place] = dataclasses.replace(seen, names=(*seen.names, layer.path))
            continue
        tied = all(canonical[tensor.path] != tensor.path for tensor in layer.tensors.values())
        reason = f"tied to {', '.join(tensor.path for tensor in tensors.values())}" if tied else ""
        merged[place] = dataclasses.replace(layer, tensors=tensors, optional=layer.optional or reason)
    return tuple(merged.values())
