"""Time a step of the training: jitted Flax against torch, eager and compiled, interleaved.

python -m examples.video.bench [--compile]

All sides keep the memory that a step gives back (memory.py); `GLIBC_TUNABLES= python -m examples.video.bench` leaves it
to the C library. Have the machine alone: torch's threads spin while they wait for one that another job holds up.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Annotated, SupportsFloat

from .memory import kept

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if __name__ == "__main__":
    kept()

import numpy as np
import torch
import typer

import parity

from .config import Config, Recipe
from .data import Batch
from .experiment import Experiment
from .flax_train import FlaxTraining
from .torch_train import TorchTraining

Step = Callable[[Batch], SupportsFloat]
PAUSE = 0.02  # seconds between two samples, in which the threads of the one before go to sleep


def main(
    rounds: Annotated[int, typer.Option(help="samples of each, one a round in a new order")] = 40,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile too, which takes minutes to compile")
    ] = False,
) -> None:
    """Print each side's step, the least processor time it took, and the median over rounds of its time / Flax's."""
    config, recipe = Config(), Recipe()
    torch.set_num_threads(os.cpu_count() or 1)  # JAX takes all as well
    took = interleaved(contenders(config, recipe, compiled=compiled), Experiment(config, recipe), rounds)
    for name, (seconds, processor) in took.items():
        middle, least, busy = 1e3 * np.median(seconds), 1e3 * np.min(seconds), 1e3 * np.min(processor)
        ratio = np.median(seconds / took["flax, jitted"][0])
        print(f"{name:15} median {middle:6.1f} ms  least {least:6.1f}  processor {busy:6.1f}  / flax {ratio:.2f}")
    print(f"{torch.get_num_threads()} threads, {rounds} rounds, GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}")


def contenders(config: Config, recipe: Recipe, *, compiled: bool) -> dict[str, Step]:
    """Each side's step, by name, from the same weights."""
    eager, flax = TorchTraining(config, recipe, 0), FlaxTraining(config, recipe)
    parity.transfer(eager.model, flax.model)
    fused = TorchTraining(dataclasses.replace(config, flash=True), recipe, 0)
    sides: dict[str, Step] = {"flax, jitted": flax.step, "torch, eager": eager.step, "torch, fused": fused.step}
    if compiled:
        sides["torch, compiled"] = TorchTraining(config, recipe, 0, compiled=True).step
    return sides


def interleaved(sides: dict[str, Step], experiment: Experiment, rounds: int) -> dict[str, np.ndarray]:
    """Seconds (2, rounds) of each side's step, the clock's and the processors', after one that warms up."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    order, rng = list(sides), np.random.default_rng(0)
    for step in range(rounds + 1):
        batch = experiment.batch(step)
        rng.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            start, busy = time.perf_counter(), time.process_time()
            float(sides[name](batch))
            took[name].append((time.perf_counter() - start, time.process_time() - busy))
    return {name: np.asarray(seconds[1:]).T for name, seconds in took.items()}


if __name__ == "__main__":
    typer.run(main)
