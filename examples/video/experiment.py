"""Which trainings there are, and what happens in what order: train each, or go on with it, and keep its losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, SupportsFloat

import numpy as np
import torch

import parity

from . import checkpoint
from .config import Config, Recipe
from .data import Batch, batch
from .faults import FAULTS
from .flax_train import FlaxTraining
from .torch_train import TorchTraining

NUDGED, SEEDS = 3, 2


class Training(Protocol):
    """Either side: `TorchTraining` or `FlaxTraining`."""

    def step(self, batch: Batch) -> SupportsFloat: ...
    def predict(self, noisy: np.ndarray, timestep: np.ndarray) -> np.ndarray: ...
    def arrays(self) -> dict[str, np.ndarray]: ...
    def load(self, arrays: dict[str, np.ndarray], steps: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its name, how it is made, and how many steps it takes."""

    name: str
    make: Callable[[], Training]
    steps: int


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything is trained on the same batches. `fault` is planted in the Flax side; "" is the right port."""

    config: Config
    recipe: Recipe
    seed: int = 0
    fault: str = ""

    def __post_init__(self) -> None:
        self.recipe.check(self.config)
        if self.fault and self.fault not in FAULTS:
            raise ValueError(f"expected a fault of {', '.join(FAULTS)}; got {self.fault!r}")

    @property
    def runs(self) -> tuple[Run, ...]:
        """torch; Flax from its weights; the truth in float64; torch with weights nudged by rounding; other seeds.

        The truth and all but one of the nudged are there for the first steps only.
        """
        whole, early = self.recipe.steps, self.recipe.early
        return (
            Run("torch", self._torch(), whole),
            Run(f"flax-{self.fault}" if self.fault else "flax", self._flax, whole),
            Run("float64", self._torch(dtype=torch.float64), early),
            *(Run(f"nudged-{n}", self._torch(nudged=n), whole if n == 1 else early) for n in range(1, NUDGED + 1)),
            *(Run(f"seed-{n}", self._torch(n), whole) for n in range(1, SEEDS + 1)),
        )

    def batch(self, step: int) -> Batch:
        recipe = self.recipe
        sizes = {"channels": self.config.channels, "frames": recipe.frames, "size": recipe.size}
        return batch(self.seed, step, count=recipe.batch, **sizes)

    def train(
        self, run: Run, folder: Path, *, every: int = 25, done: Callable[[int], None] = lambda steps: None
    ) -> tuple[Training, np.ndarray]:
        """Train a run, from its checkpoint where there is one, which is renewed after `every` steps.

        `done` is told how many steps have been taken. The losses are those before each step's update.
        """
        settings = {"config": self.config, "recipe": self.recipe, "seed": self.seed}
        path = checkpoint.file_for(folder, run.name, settings)
        training, losses = run.make(), list[float]()
        if (found := checkpoint.load(path)) is not None:
            arrays, losses = found
            training.load(arrays, len(losses))
        done(len(losses))
        for step in range(len(losses), run.steps):
            losses.append(float(training.step(self.batch(step))))
            if len(losses) % every == 0 or len(losses) == run.steps:
                checkpoint.save(path, training.arrays(), losses)
            done(len(losses))
        return training, np.asarray(losses)

    def _torch(self, seed: int = 0, **options: object) -> Callable[[], Training]:
        return lambda: TorchTraining(self.config, self.recipe, 1000 * self.seed + seed, **options)

    def _flax(self) -> Training:
        theirs, ours = self._torch()(), FlaxTraining(self.config, self.recipe)
        transfer(theirs, ours)
        if self.fault:
            FAULTS[self.fault](ours.model)
        return ours


def transfer(theirs: TorchTraining, ours: FlaxTraining) -> None:
    """torch's weights, to Flax."""
    # Of the same shape on both sides; said, because two of its axes may be equal and could change places.
    memory = [(f"**.{name}", f"**.{name}", "reshape") for name in ("memory_key", "memory_value")]
    parity.transfer(theirs.model, ours.model, rules=memory if ours.model.config.memory else ())
