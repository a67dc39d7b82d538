"""On a GPU: a bfloat16 training step on 16 frames of 256 x 256, its time, its memory and attention's share of it.

python -m examples.video.bench_gpu [--json FILE]

Flax, jitted, against torch with each kind of attention, eager and compiled. Weights, optimiser and activations are
bfloat16 on both sides. A sample is several steps, of which only the last one's loss is looked at: as in a training, the
next step is handed to the GPU while it works. Memory is what a step takes beyond weights and optimiser. The share of
attention is what a step gets faster by when every `Attend` hands on its values instead: projections, norms and position
biases stay.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, SupportsFloat

os.environ.setdefault("JAX_PLATFORMS", "")  # whatever there is: the bench of the CPU, imported below, says "cpu"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the GPU's memory, too

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from flax import nnx
from rich import print as show

from . import flax_model, torch_model
from .bench import interleaved
from .config import Config, Recipe
from .data import Batch
from .experiment import Experiment, transfer
from .flax_train import FlaxTraining, train_step
from .torch_train import TorchTraining

LARGE = Config(
    channels=3, widths=(64, 128, 256, 512), attends=(False, False, False, True), bias_width=32, time_width=256,
    feed_forward=4,
)  # fmt: skip
RECIPE = Recipe(batch=1, frames=16, size=256)
STEPS = 5  # of a sample


@dataclasses.dataclass
class Side:
    """A training that can be stepped, and the bytes that a step takes beyond weights and optimiser, where known."""

    step: Callable[[Batch], SupportsFloat]
    memory: int | None

    def sample(self, batch: Batch) -> SupportsFloat:
        for _ in range(STEPS):
            loss = self.step(batch)
        return loss


class TorchHandOn(torch.nn.Module):
    """In place of torch's `Attend`: no attention, but the same gradients to make elsewhere."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return v[:, :, -q.shape[2] :] + q * k[:, :, -q.shape[2] :] + bias.mean().to(q.dtype)


class FlaxHandOn(nnx.Module):
    """The same in Flax."""

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        return v[:, :, -q.shape[2] :] + q * k[:, :, -q.shape[2] :] + bias.mean().astype(q.dtype)


def torch_side(*, flash: bool, compiled: str | None = None, attention: bool = True) -> Side:
    """`compiled` is a mode of `torch.compile`."""
    config = dataclasses.replace(LARGE, flash=flash)
    training = TorchTraining(config, RECIPE, 0, dtype=torch.bfloat16, device=DEVICE)
    if not attention:
        for module in training.model.modules():
            if isinstance(module, torch_model.Attention):
                module.attend = TorchHandOn()
    if compiled is not None:
        training.call = torch.compile(training.model, mode=compiled)
    batch = Experiment(config, RECIPE).batch(0)
    for _ in range(2):  # the first makes the optimiser's state
        training.step(batch)
    if DEVICE == "cpu" or compiled == "reduce-overhead":  # a CUDA graph keeps its memory: a step takes none anew
        return Side(training.step, None)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training.step(batch)
    return Side(training.step, torch.cuda.max_memory_allocated() - before)


def flax_side(*, attention: bool = True) -> Side:
    training = FlaxTraining(LARGE, RECIPE, flax_model.Options(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    transfer(TorchTraining(LARGE, RECIPE, 0, dtype=torch.bfloat16), training)
    if not attention:
        for _, module in nnx.iter_graph(training.model):
            if isinstance(module, flax_model.Attention):
                module.attend = FlaxHandOn()
    batch = Experiment(LARGE, RECIPE).batch(0)
    training.step(batch)
    taken = train_step.lower(training.model, training.optimizer, *batch.arrays).compile().compiled.memory_analysis()
    return Side(training.step, taken.temp_size_in_bytes + taken.output_size_in_bytes - taken.alias_size_in_bytes)


SIDES: dict[str, Callable[[], Side]] = {
    "flax, jitted": flax_side,
    "flax, no attention": lambda: flax_side(attention=False),
    "torch, fused": lambda: torch_side(flash=True),
    "torch, fused, compiled": lambda: torch_side(flash=True, compiled="default"),
    "torch, plain, compiled": lambda: torch_side(flash=False, compiled="default"),
    "torch, fused, compiled, graphs": lambda: torch_side(flash=True, compiled="reduce-overhead"),
    "torch, plain, compiled, graphs": lambda: torch_side(flash=False, compiled="reduce-overhead"),
    "torch, no attention, compiled": lambda: torch_side(flash=True, compiled="default", attention=False),
}
WITHOUT = {"flax, jitted": "flax, no attention", "torch, fused, compiled": "torch, no attention, compiled"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main(
    rounds: Annotated[int, typer.Option(help="samples of each, one a round in a new order")] = 15,
    json_path: Annotated[Path | None, typer.Option("--json", help="write every sample")] = None,
) -> None:
    """Print the median step of each side, its memory, and the median over rounds of its time divided by Flax's."""
    torch.backends.cudnn.benchmark = True
    sides: dict[str, Side] = {}
    for name, make in SIDES.items():
        start = time.perf_counter()
        try:
            sides[name] = make()
        except Exception as error:
            show(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:300]}")
            continue
        show(f"{name}: ready after {time.perf_counter() - start:.0f} s", flush=True)
    samples = interleaved({name: side.sample for name, side in sides.items()}, Experiment(LARGE, RECIPE), rounds)
    took = {name: seconds / STEPS for name, (seconds, _) in samples.items()}
    for name, seconds in took.items():
        ratio, memory = np.median(seconds / took["flax, jitted"]), sides[name].memory
        print(
            f"{name:31} median {1e3 * np.median(seconds):7.1f} ms  least {1e3 * np.min(seconds):7.1f} ms  "
            f"/ flax {ratio:.2f}  " + ("unknown" if memory is None else f"{memory / 2**30:6.2f} GiB")
        )
    for name, without in WITHOUT.items():
        if {name, without} <= took.keys():
            print(f"share of attention, {name}: {1 - np.median(took[without] / took[name]):.2f}")
    if json_path is not None:
        found = {
            "command": "python -m examples.video.bench_gpu",
            "device": jax.devices()[0].device_kind,
            "versions": {"jax": jax.__version__, "torch": torch.__version__, "python": platform.python_version()},
            "config": dataclasses.asdict(LARGE),
            "recipe": dataclasses.asdict(RECIPE),
            "bytes": {name: side.memory for name, side in sides.items()},
            "seconds": {name: seconds.tolist() for name, seconds in took.items()},
        }
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
