"""Frozen dataclasses as what JSON has, and back by the types of their fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Dicts, lists and scalars. Every field is written, so that a default may change and files still say the same.

    >>> from parity.weights.layers import Part
    >>> encode((Part(0, 3, axis=1), frozenset("ba")))
    [{'index': 0, 'count': 3, 'axis': 1}, ['a', 'b']]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(encode(item) for item in value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: Any) -> T:
    """The inverse of `encode`; a field that is missing has its default.

    Raises ValueError or TypeError where the value is none of that kind.

    >>> from parity.cases import TensorSpec
    >>> decode(TensorSpec, {"name": "x", "shape": [2, 3], "dtype": "float32"}).shape
    (2, 3)
    """
    found: T = _decode(kind, value)
    return found


def _decode(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _a(dict, value))
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decode(inner, value)
    if origin is tuple:
        kinds = arguments[:1] * len(_a(list, value)) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(inner, item) for inner, item in zip(kinds, _a(list, value), strict=True))
    if origin is frozenset:
        return frozenset(_decode(arguments[0], item) for item in _a(list, value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _decode(arguments[1], item) for key, item in _a(dict, value).items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _a(kind, value)


def _dataclass(kind: Any, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ValueError(f"a {kind.__name__} has no {', '.join(unknown)}")
    return kind(**{name: _decode(hints[name], item) for name, item in value.items()})


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"expected {kind.__name__}, got {value!r:.80}")
    return value
