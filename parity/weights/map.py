"""The map from one module's weights to another's: data that is applied either way, printed, saved and used again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from rich.markup import escape
from rich.table import Table

from parity.weights import transforms
from parity.weights.layers import Part, Tensor, WeightsError

VERSION = 1
Arrays = Mapping[str, np.ndarray]
_Side = Literal["torch", "flax"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """Tensors of torch's, tensors of Flax's, what lies between, and why they were paired or are ignored."""

    torch: tuple[Tensor, ...]
    flax: tuple[Tensor, ...]
    transform: str
    why: str


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """Every parameter and buffer of both sides, once.

    >>> weight, kernel = Tensor("fc.weight", (3, 2), "float32"), Tensor("fc.kernel", (2, 3), "float32")
    >>> found = WeightMap((Entry((weight,), (kernel,), "linear", "by name"),))
    >>> found.to_flax({"fc.weight": np.array([[1, 2], [3, 4], [5, 6]], np.float32)})["fc.kernel"].tolist()
    [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    """

    entries: tuple[Entry, ...]

    def to_flax(self, arrays: Arrays, *, cast: bool = False) -> dict[str, np.ndarray]:
        """Flax's arrays from torch's, by name, tied ones under each of their names.

        Values keep their dtype or take the target's if that changes none of them; `cast` allows rounding. Raises
        `WeightsError` for names that are missing or not in the map, other shapes, and what a transform refuses.
        """
        return self._moved(arrays, "torch", "flax", cast)

    def to_torch(self, arrays: Arrays, *, cast: bool = False) -> dict[str, np.ndarray]:
        """torch's arrays from Flax's, as `to_flax`."""
        return self._moved(arrays, "flax", "torch", cast)

    def ignored(self, side: _Side) -> frozenset[str]:
        """The names on a side that the map leaves as they are."""
        tensors = (t for entry in self.entries if entry.transform == "ignored" for t in getattr(entry, side))
        moved = {t.path for entry in self.entries if entry.transform != "ignored" for t in getattr(entry, side)}
        return frozenset(name for t in tensors if t.path not in moved for name in (t.path, *t.names))

    def _moved(self, arrays: Arrays, source: _Side, target: _Side, cast: bool) -> dict[str, np.ndarray]:
        known = {name for entry in self.entries for t in getattr(entry, source) for name in (t.path, *t.names)}
        if unknown := sorted(arrays.keys() - known):
            raise WeightsError(f"expected names of the {source} side of this map, got {unknown[:8]}")
        result: dict[str, np.ndarray] = {}
        written: dict[tuple[str, Part | None], bytes] = {}
        for entry in self.entries:
            if entry.transform == "ignored":
                continue
            sources, targets = getattr(entry, source), getattr(entry, target)
            taken = tuple(_take(arrays, tensor, source) for tensor in sources)
            transform = transforms.get(entry.transform)
            turn = transform.to_flax if target == "flax" else transform.to_torch
            shapes = tuple(tensor.size for tensor in targets)
            try:
                moved = turn(taken, shapes)
            except WeightsError as error:
                raise WeightsError(f"{_shown(sources) or _shown(targets)}: {error}") from None
            for tensor, array in zip(targets, moved, strict=entry.transform != "zero"):
                _write(result, written, tensor, _as(array, tensor, cast))
        # Tied tensors are handed out under all their names, for readers that want a complete state dict.
        for entry in self.entries:
            for tensor in getattr(entry, target):
                if tensor.path in result:
                    result |= dict.fromkeys(tensor.names, result[tensor.path])
        return result

    def table(self) -> Table:
        """All entries, for a console of rich's."""
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("torch", "Flax", "transform", "why"):
            grid.add_column(heading, overflow="fold")
        for entry in self.entries:
            row = (_listed(entry.torch), _listed(entry.flax), entry.transform, entry.why)
            grid.add_row(*map(escape, row), style="dim" if entry.transform == "ignored" else "")
        return grid

    def save(self, path: str | Path) -> None:
        """As JSON, to be read again with `load`."""
        Path(path).write_text(self.dumps(), encoding="utf-8")

    def dumps(self) -> str:
        """The JSON: an entry a line."""
        lines = ",\n".join("  " + json.dumps(_to_json(entry)) for entry in self.entries)
        return f'{{"parity weight map": {VERSION}, "entries": [\n{lines}\n]}}\n'

    @classmethod
    def load(cls, path: str | Path) -> WeightMap:
        """What `save` wrote. Raises `WeightsError` for a file that is none, or of a later version."""
        try:
            return cls.loads(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise WeightsError(f"{path}: expected a weight map in JSON, got bytes that are no text") from None
        except OSError as error:
            raise WeightsError(f"{path}: expected a weight map, could not read it: {error.strerror}") from None
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None

    @classmethod
    def loads(cls, text: str) -> WeightMap:
        """The same from the JSON itself."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise WeightsError(f"expected a weight map in JSON, got text that is none: {error}") from None
        version = data.get("parity weight map") if isinstance(data, dict) else None
        if version != VERSION:
            got = "none" if version is None else f"version {version}"
            raise WeightsError(f'expected a weight map of version {VERSION} (key "parity weight map"), got {got}')
        try:
            return cls(tuple(_from_json(entry) for entry in data["entries"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"expected the entries of a weight map, got something else: {error!r}") from None


def _shown(tensors: Iterable[Tensor]) -> str:
    return ", ".join(f"`{tensor.shown}`" for tensor in tensors)


def _listed(tensors: Iterable[Tensor]) -> str:
    return " + ".join(
        f"{tensor.shown} {tensor.size}" + (f" (also {', '.join(tensor.names)})" if tensor.names else "")
        for tensor in tensors
    )


def _take(arrays: Arrays, tensor: Tensor, side: _Side) -> np.ndarray:
    given = [(name, arrays[name]) for name in (tensor.path, *tensor.names) if name in arrays]
    if not given:
        raise WeightsError(f"expected `{tensor.path}` {tensor.shape} among the {side} arrays, got none of this name")
    name, array = given[0]
    if array.shape != tensor.shape:
        raise WeightsError(f"`{name}`: expected shape {tensor.shape}, as the map was made for, got {array.shape}")
    for other, copy in given[1:]:
        if copy is not array and not _equal(copy, array):
            raise WeightsError(
                f"`{name}` and `{other}` are one tied tensor in the {side} module, but two different arrays came: "
                "which one is meant? Leave the other out, or untie them"
            )
    return array if tensor.part is None else array[tensor.part.slices(array.shape)]


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _write(
    result: dict[str, np.ndarray], written: dict[tuple[str, Part | None], bytes], tensor: Tensor, array: np.ndarray
) -> None:
    place = tensor.path, tensor.part
    if tensor.names:  # a tied one may come from several layers of a side that does not tie them
        numbers = array.tobytes()
        if written.setdefault(place, numbers) != numbers:
            raise WeightsError(
                f"`{tensor.shown}` is one tensor with the names {_shown([tensor])}, {', '.join(tensor.names)}, but the "
                "other side has different values for them: tie them there, or untie them here"
            )
    if tensor.part is None:
        result[tensor.path] = array
        return
    whole = result.setdefault(tensor.path, np.empty(tensor.shape, array.dtype))
    whole[tensor.part.slices(tensor.shape)] = array


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def _as(array: np.ndarray, tensor: Tensor, cast: bool) -> np.ndarray:
    wanted = _dtype(tensor.dtype)
    if array.dtype == wanted:
        return np.ascontiguousarray(array).reshape(tensor.size)
    with np.errstate(all="ignore"):
        converted = array.astype(wanted)
        lost = array.size and not np.array_equal(converted.astype(array.dtype), array, equal_nan=True)
    if lost and not cast:
        raise WeightsError(
            f"`{tensor.shown}` is {tensor.dtype}, and the values that came, {array.dtype.name}, would be rounded: "
            f"build the module with {array.dtype.name} parameters, or allow rounding with cast=True"
        )
    return np.ascontiguousarray(converted).reshape(tensor.size)


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "torch": [_tensor_to_json(tensor) for tensor in entry.torch],
        "flax": [_tensor_to_json(tensor) for tensor in entry.flax],
        "transform": entry.transform,
        "why": entry.why,
    }


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    data: dict[str, Any] = {"path": tensor.path, "shape": list(tensor.shape), "dtype": tensor.dtype}
    if tensor.part is not None:
        data["part"] = list(dataclasses.astuple(tensor.part))
    if tensor.names:
        data["names"] = list(tensor.names)
    return data


def _from_json(data: Mapping[str, Any]) -> Entry:
    torch, flax = (tuple(_tensor_from_json(tensor) for tensor in data[side]) for side in ("torch", "flax"))
    transform = transforms.get(data["transform"])
    if not transform.fits(tuple(t.size for t in torch), tuple(t.size for t in flax)):
        raise ValueError(f"{transform.name} does not make {_listed(torch)} into {_listed(flax)}")
    return Entry(torch, flax, transform.name, str(data["why"]))


def _tensor_from_json(data: Mapping[str, Any]) -> Tensor:
    _dtype_known(data["dtype"])
    part = Part(*map(int, data["part"])) if "part" in data else None
    names = tuple(map(str, data.get("names", ())))
    return Tensor(str(data["path"]), tuple(map(int, data["shape"])), str(data["dtype"]), part, names)


def _dtype_known(name: str) -> None:
    if not name.startswith("key<"):  # random state, which is ignored and never read
        _dtype(name)
