"""What a mutant is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from parity.mutants.port import Port

Step = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A port that differs from `Port` in the steps of `steps`; `honest` ones must pass, the others must not."""

    name: str
    family: str
    mistake: str
    steps: dict[str, Step]
    honest: bool = False

    def build(self) -> type[Port]:
        return type(self.name, (Port,), dict(self.steps))
