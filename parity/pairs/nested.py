"""Any structure of outputs as named arrays: tuples, lists, dicts and dataclasses, nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def flatten(value: Any, name: str = "output") -> dict[str, Any]:
    """Leaves by name; what is None is left out.

    >>> flatten({"logits": 1, "hidden": (2, None, [3])})
    {'output.logits': 1, 'output.hidden.0': 2, 'output.hidden.2.0': 3}
    >>> flatten(4)
    {'output': 4}
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        fields = getattr(value, "_fields", range(len(value)))
        items = [(str(key), item) for key, item in zip(fields, value, strict=True)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    else:
        return {name: value}
    return {leaf: found for key, item in items for leaf, found in flatten(item, f"{name}.{key}").items()}
