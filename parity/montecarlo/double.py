"""A truth in float64 for modules that cast to float32 themselves, as a softmax or a norm in float32 often does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_NARROWER = (torch.float32, torch.float16, torch.bfloat16)


class Double(TorchDispatchMode):
    """Every real dtype that an op is asked for is float64, in the backward pass too.

    In a run in float32 these casts change nothing; in one in 16 bits they make the module more accurate than its dtype
    says, so that the bound, which does not know of them, is wider than it need be.

    >>> with Double():
    ...     torch.ones(2, dtype=torch.float64).float().dtype
    torch.float64
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROWER else value
