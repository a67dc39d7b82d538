"""What travels between the pipeline and a side's worker of a pair, besides an `Outcome`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parity.pairs.cases import PairCase, cotangent

# What stands in front of the names of what torch's side returns: results in the run's dtype and in float64, how far
# rounding spreads them, and which whole numbers it may change.
REFERENCE, TRUTH, SPREAD, UNCERTAIN = "reference/", "truth/", "spread/", "uncertain/"

# The variants of a port that `parity mutate` judges: itself, and how the names of the others begin.
PORT, HONEST, WRONG, PLANTED, SUBTLE = "the port", "honest: ", "wrong: ", "planted: ", "planted, subtle: "


@dataclasses.dataclass(frozen=True)
class PairSide:
    """One side of the pair that a whole SPEC names: "torch" or "flax". `spreads` is the folder in which torch's side
    keeps how far rounding spreads its results, None for none."""

    pair: str
    framework: str
    seed: int = 0
    spreads: str | None = None

    def __str__(self) -> str:
        return f"{self.pair} ({self.framework})"


@dataclasses.dataclass(frozen=True)
class PairHello:
    """The module is made: its layers (`parity.weights.layers.Layer`), and on torch's side what is in them; on Flax's,
    which variants of it `parity mutate` may ask for."""

    environment: Mapping[str, str]
    layers: tuple[Any, ...]
    arrays: Mapping[str, np.ndarray]
    variants: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PairJob:
    """A case to run. `weights` is the file that a Flax module takes its weights from; `variant` is which module.
    `cotangents` are those that were recorded, by output; the others each side makes. `again` says that the same case
    comes once more, for another variant."""

    key: int
    case: PairCase
    arrays: Mapping[str, np.ndarray]
    weights: str | None = None
    seed: int = 0
    variant: str | None = None
    again: bool = False
    cotangents: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def cotangent(self, output: str, shape: tuple[int, ...]) -> np.ndarray:
        """What an output of this shape is multiplied with on the way back."""
        found = self.cotangents.get(output)
        if found is not None and found.shape == shape:
            return found
        return cotangent(self.seed, self.case.name, output, shape, self.case.run_dtype)


def random_words(framework: str, mode: str, output: str, dropouts: Sequence[str]) -> str:
    """What is said of a module that two calls with equal inputs make two things of."""
    if mode == "eval":
        return (
            f"the {framework} module is random in evaluation: two calls with equal inputs differ in {output}; seed it "
            f"in {framework}_call, or take the randomness as an input"
        )
    which = f" (dropout: {', '.join(dropouts)})" if dropouts else ""
    return (
        f"the {framework} module is random in training: two calls with equal inputs differ in {output}{which}; set "
        'its dropout rates to 0, or give the pair modes=("eval",)'
    )
