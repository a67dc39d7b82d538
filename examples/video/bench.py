"""Time a step of the training: jitted Flax against torch, eager and compiled, interleaved.

python -m examples.video.bench
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Annotated

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import torch
import typer

import parity

from .config import Config, Recipe
from .data import Batch
from .experiment import Experiment
from .flax_train import FlaxTraining
from .torch_train import TorchTraining

Step = Callable[[Batch], float]
PAUSE = 0.02  # seconds between two samples, in which the threads of the one before go to sleep


def main(rounds: Annotated[int, typer.Option(help="samples of each, one a round in a new order")] = 40) -> None:
    """Print the median step of each side, and the median over rounds of how often Flax's fits into each of torch's."""
    config, recipe = Config(), Recipe()
    torch.set_num_threads(os.cpu_count() or 1)  # JAX takes all as well
    sides, words = contenders(config, recipe)
    took = interleaved(sides, Experiment(config, recipe), rounds)
    for name, seconds in took.items():
        ratio = np.median(seconds / took["flax, jitted"])
        middle, least = 1e3 * np.median(seconds), 1e3 * np.min(seconds)
        print(f"{name:15} median {middle:7.1f} ms  least {least:7.1f} ms  / flax {ratio:.2f}")
    print(words)


def contenders(config: Config, recipe: Recipe) -> tuple[dict[str, Step], str]:
    """The steps by name, and what could not be had, in words."""
    eager, flax = TorchTraining(config, recipe, 0), FlaxTraining(config, recipe)
    parity.transfer(eager.model, flax.model)
    sides: dict[str, Step] = {"flax, jitted": flax.step, "torch, eager": eager.step}
    fused = TorchTraining(Config(flash=True), recipe, 0)
    sides["torch, fused"] = fused.step
    compiled = TorchTraining(config, recipe, 0, compiled=True)
    try:
        compiled.step(Experiment(config, recipe).batch(0))
    except Exception as error:  # no C++ compiler, say: torch's own words tell
        return sides, f"torch.compile does not work here: {type(error).__name__}: {str(error).splitlines()[0]}"
    return {**sides, "torch, compiled": compiled.step}, f"{torch.get_num_threads()} threads"


def interleaved(sides: dict[str, Step], experiment: Experiment, rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each side's step, after one that warms up."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    order, rng = list(sides), np.random.default_rng(0)
    for step in range(rounds + 1):
        batch = experiment.batch(step)
        rng.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            sides[name](batch)
            took[name].append(time.perf_counter() - start)
    return {name: np.asarray(seconds[1:]) for name, seconds in took.items()}


if __name__ == "__main__":
    typer.run(main)
