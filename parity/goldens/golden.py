"""What is recorded of a reference: enough to judge a candidate again without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.cases import Arrays, Case
from parity.criterion import Expectation
from parity.messages import Hello, Outcome
from parity.pairs.messages import PairHello
from parity.spec import Interface
from parity.weights.layers import Layer

ATTENTION, PAIR = "attention", "pair"
# The first words of the names of a case's arrays; for a pair's results there are more, in pairs/messages.py.
INPUT, RESULT, TRUTH, WIDTH, COTANGENT = "input/", "reference/", "truth/", "width/", "cotangent/"


@dataclasses.dataclass(frozen=True)
class Flags:
    """What an `Expectation` holds beside its arrays."""

    dtype: str
    shared: tuple[int, ...]
    zero: bool = False
    vanishing: bool = False


@dataclasses.dataclass(frozen=True)
class Recording:
    """One case and what the reference made of it: `raised` in the words of its exception, or arrays, each with a word
    in front of its name. `expected` is there where the criterion has a formula."""

    case: Case
    arrays: Arrays
    raised: str | None = None
    notes: tuple[str, ...] = ()
    expected: Mapping[str, Flags] = dataclasses.field(default_factory=dict)

    def part(self, word: str) -> dict[str, np.ndarray]:
        """The arrays with this word in front, without it."""
        return {name.removeprefix(word): array for name, array in self.arrays.items() if name.startswith(word)}

    def expectations(self) -> dict[str, Expectation]:
        """What an attention case's quantities should be, as it was when they were recorded."""
        return {
            name: Expectation(
                self.arrays[TRUTH + name], self.arrays[WIDTH + name], flags.dtype, flags.shared, flags.zero,
                flags.vanishing,
            )
            for name, flags in self.expected.items()
        }  # fmt: skip

    def outcome(self, key: int, kind: str) -> Outcome:
        """As the reference's worker answered."""
        if kind == ATTENTION:
            arrays = self.part(RESULT)
        else:
            arrays = {name: array for name, array in self.arrays.items() if not name.startswith((INPUT, COTANGENT))}
        return Outcome(key, arrays, raised=self.raised, notes=self.notes)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference: its SPEC, or that of its pair, and where it ran. Of an attention what it accepts, of a pair's torch
    module the layers and what is in them."""

    name: str
    environment: Mapping[str, str]
    cases: tuple[Recording, ...]
    interface: Interface | None = None
    layers: tuple[Layer, ...] = ()
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def hello(self) -> Any:
        """As the reference's worker said it."""
        if self.interface is not None:
            return Hello(self.interface, self.environment)
        return PairHello(self.environment, self.layers, self.weights)


@dataclasses.dataclass(frozen=True)
class Golden:
    """All that one `parity record` found. `kind` is "attention" or "pair"; `provenance` says when, where and how."""

    kind: str
    seed: int
    provenance: Mapping[str, str]
    references: tuple[Reference, ...]

    @property
    def recordings(self) -> dict[str, Recording]:
        """By the names of their cases."""
        return {recording.case.name: recording for reference in self.references for recording in reference.cases}
