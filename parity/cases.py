"""A case is data: named tensors, the arguments of the call, and what is compared. Nothing here knows attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input. `role` says what it is for: an "input" is differentiated, a "constant" is not, a "cotangent" is
    what the output of the same name is multiplied with on the way back. `std` is the spread of its normal numbers;
    a boolean tensor is True with probability `std`. With a `range` they are uniform from the first number up to the
    second, and may be whole numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str = "input"
    std: float = 1.0
    range: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    `name` is a pytest id, a glob's target and a file name, and says everything needed to make the case again.
    `arguments` holds only what differs from the defaults, so each of its keys is something a side must accept.
    `values` names the special numbers of `tensors.py`; with `finite` False they are NaN or inf (S17). `grouped` means
    fewer key heads than query heads, and more than one (S13). With `inference` the call is made without gradients too.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    arguments: Mapping[str, Any]
    values: str = "normal"
    finite: bool = True
    grouped: bool = False
    inference: bool = False
    kind: str = "exact"

    @property
    def dtype(self) -> str:
        return self.tensors[0].dtype

    def named(self, role: str) -> tuple[str, ...]:
        """The names of the tensors with this role, in order."""
        return tuple(tensor.name for tensor in self.tensors if tensor.role == role)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is compared: the outputs that have a cotangent, and the gradient of every input."""
        outputs = tuple(name.removeprefix("cotangent_") for name in self.named("cotangent"))
        return outputs + tuple("d" + name for name in self.named("input"))

    @property
    def needs(self) -> frozenset[str]:
        """The names of the arguments that a side must accept to run this case."""
        tensors = {t.name for t in self.tensors if t.role != "cotangent"} - {"query", "key", "value"}
        return frozenset(tensors | set(self.arguments))
