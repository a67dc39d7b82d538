"""What of a module may be why it differs, in words that both sides share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

# Word, torch's attribute, Flax's attribute.
_SHARED = (
    ("epsilon", "eps", "epsilon"),
    ("padding", "padding", "padding"),
    ("stride", "stride", "strides"),
    ("dilation", "dilation", "kernel_dilation"),
    ("groups of features", "groups", "feature_group_count"),
    ("number of groups", "num_groups", "num_groups"),
    ("number of heads", "num_heads", "num_heads"),
    ("negative slope", "negative_slope", "negative_slope"),
    ("dropout rate", "p", "rate"),
)
STOPPED = "gradient stopped in its code:"
_SIZES = ("padding", "stride", "dilation")


def of_torch(module: Any) -> dict[str, str]:
    """
    >>> import torch
    >>> of_torch(torch.nn.LayerNorm(3))["epsilon"]
    '1e-05'
    """
    found = _read(module, {word: name for word, name, _ in _SHARED})
    affine = type(module).__name__.endswith("Norm") or "Norm" in type(module).__name__
    if hasattr(module, "bias"):
        found["bias"] = _yes(module.bias is not None)
    if affine and hasattr(module, "weight"):
        found["scale"] = _yes(module.weight is not None)
    gelus = [child.approximate for child in module.modules() if type(child).__name__ == "GELU"]
    own = _gelu(type(module).forward, exact="none", default="exact")
    found[STOPPED] = _yes(any(word in _source(type(module).forward) for word in ("detach", "no_grad")))
    names = {{"none": "exact"}.get(name, name) for name in gelus} | ({own} if own else set())
    return found | ({"GELU": names.pop()} if len(names) == 1 else {})


def of_flax(module: Any) -> dict[str, str]:
    """
    >>> from flax import nnx
    >>> of_flax(nnx.LayerNorm(3, rngs=nnx.Rngs(0)))["epsilon"]
    '1e-06'
    """
    found = _read(module, {word: name for word, _, name in _SHARED})
    for word, name in (("bias", "use_bias"), ("scale", "use_scale")):
        if hasattr(module, name):
            found[word] = _yes(bool(getattr(module, name)))
    found[STOPPED] = _yes("stop_gradient" in _source(type(module).__call__))
    gelu = _gelu(type(module).__call__, exact="False", default="tanh")
    return found | ({"GELU": gelu} if gelu else {})


def differences(torch: Mapping[str, str], flax: Mapping[str, str]) -> list[str]:
    """
    >>> differences({"epsilon": "1e-05", "bias": "yes"}, {"epsilon": "1e-06", "bias": "yes"})
    ['epsilon 1e-05 against 1e-06']
    """
    return [
        f"{word} {torch[word]} against {flax[word]}"
        for word in torch
        if word in flax and torch[word] != flax[word] and not _alike(torch[word], flax[word])
    ]


def _alike(torch: str, flax: str) -> bool:
    """A number for each axis, or one for all; torch's "same" is Flax's "SAME"."""
    one, other = sorted(set(torch.split(","))), sorted(set(flax.split(",")))
    return torch.lower() == flax.lower() or (one == other and len(one) == 1)


def _read(module: Any, names: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for word, name in names.items():
        value = getattr(module, name, None)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            found[word] = f"{value:g}" if isinstance(value, float) else str(value)
        elif isinstance(value, list | tuple) and word in _SIZES:
            found[word] = ",".join(_side(item) for item in value)
    return found


def _side(value: Any) -> str:
    """How much on one axis; Flax's padding has a number before and one behind."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return str(value[0]) if value[0] == value[1] else f"{value[0]}+{value[1]}"
    return str(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def _gelu(function: Any, *, exact: str, default: str) -> str:
    """Which GELU a module's own code calls: a function leaves no attribute behind. "" if it cannot be told."""
    source = _source(function)
    if "gelu(" not in source:
        return ""
    said = re.search(r"approximate\s*=\s*([^,)\s]+)", source)
    if said is None:
        return default
    word = said[1].strip("'\"")
    return {exact: "exact", "True": "tanh", "tanh": "tanh"}.get(word, "")
