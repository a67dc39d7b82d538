"""The same training on many devices: `flax_train.py`'s model and step as they are, and what to cut along a mesh.

    data     videos of a batch                                                no communication but the gradients' sum
    heads    of every attention, with the weights that make and take them     one sum after each attention
    frames   of a video: the attention over time is a ring, convolutions pass frames on to their neighbour
    pixels   rows of a frame: the attention over space is a ring, convolutions pass rows on

What the model does between the attentions is cut up by the compiler. This file needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attend_jax import Attend

from .config import Config, Recipe
from .data import Batch, batch
from .flax_train import FlaxTraining, train_step

AXES = ("data", "heads", "frames", "pixels")
VIDEO = PartitionSpec("data", None, "frames", "pixels")  # (b c f h w)
# What query, key and value are cut along, by the name of the module that `Attend` is in; see the rearrangements there.
ATTENTION = {
    "space": PartitionSpec(("data", "frames"), "heads", "pixels"),  # ((b f) heads (h w) d)
    "time": PartitionSpec(("data", "pixels"), "heads", "frames"),  # ((b h w) heads f d)
}
# Weights by the end of their path, which is the same in the optimiser's state; the others are whole on every device.
WEIGHTS = {
    ("query", "kernel"): PartitionSpec(None, "heads"),
    ("key", "kernel"): PartitionSpec(None, "heads"),
    ("value", "kernel"): PartitionSpec(None, "heads"),
    ("out", "kernel"): PartitionSpec("heads"),
    ("memory_key",): PartitionSpec("heads"),
    ("memory_value",): PartitionSpec("heads"),
    ("space_bias", "leave", "kernel"): PartitionSpec(None, "heads"),
    ("time_bias", "leave", "kernel"): PartitionSpec(None, "heads"),
}


class MeshTraining(FlaxTraining):
    """A U-Net in training on a mesh of all devices, of all processes. Its weights come from `restore`.

    Args:
      parts: for each axis of `AXES`, in how many parts it is cut; 1 where it is not named.

    Raises:
      ValueError: there are fewer devices than that.
    """

    def __init__(self, config: Config, recipe: Recipe, parts: Mapping[str, int]) -> None:
        super().__init__(config, recipe)
        sizes, there = tuple(parts.get(axis, 1) for axis in AXES), jax.devices()
        if (needed := math.prod(sizes)) > len(there):
            raise ValueError(
                f"the mesh needs {needed} devices; JAX has {len(there)} {there[0].platform} devices in "
                f"{jax.process_count()} process(es)"
            )
        self.mesh = jax.make_mesh(sizes, AXES, (AxisType.Auto,) * len(AXES), devices=there[:needed])
        for path, module in nnx.iter_modules(self.model):
            if isinstance(module, Attend):
                module.sharding = NamedSharding(self.mesh, ATTENTION[path[-2]])
        # The very function; that weights come out cut as they went in is left to nobody's choice.
        places = *map(self._weights, (self.model, self.optimizer)), *map(self._video, (5, 1, 5))
        step = nnx.jit(train_step.__wrapped__, in_shardings=places)
        self.train_step = nnx.cached_partial(step, self.model, self.optimizer)

    def step(self, batch: Batch) -> jax.Array:
        """One update, and the loss before it. Each process puts its own part of the batch on its devices."""
        placed = (
            jax.make_array_from_callback(array.shape, self._video(array.ndim), array.__getitem__)
            for array in batch.arrays
        )
        loss = self.train_step(*placed)
        self.steps += 1
        return loss

    def state(self) -> dict[str, jax.Array]:
        """Weights and the optimiser's state by the names that `arrays` has, and cut as they are."""
        return {".".join(map(str, path)): leaf[...] for path, leaf in self._leaves()}

    def save(self, path: Path) -> None:
        """An Orbax checkpoint, each process writing what is its own."""
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), self.state())

    def restore(self, path: Path, steps: int) -> None:
        """Go on from an Orbax checkpoint of `steps` steps, whatever devices it was saved from."""
        target = {
            ".".join(map(str, path)): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._weight(path))
            for path, leaf in self._leaves()
        }
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            self.load(checkpointer.restore(path.absolute(), target), steps)

    def _leaves(self) -> list[tuple[tuple[Any, ...], Any]]:
        return list(nnx.to_flat_state(nnx.state((self.model, self.optimizer))))

    def _weight(self, path: tuple[Any, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, spec_of(path))

    def _weights(self, module: nnx.Module) -> nnx.StateSharding:
        leaves = nnx.to_flat_state(nnx.state(module))
        return nnx.StateSharding(nnx.from_flat_state([(path, self._weight(path)) for path, _ in leaves]))

    def _video(self, axes: int) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*VIDEO[:axes]))


def spec_of(path: tuple[Any, ...]) -> PartitionSpec:
    """How a weight, or what the optimiser keeps of it, is cut.

    >>> tuple(spec_of(("middle", "blocks", 0, "time", "query", "kernel")))
    (None, 'heads')
    """
    for end, spec in WEIGHTS.items():
        if path[-len(end) :] == end:
            return spec
    return PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a process needs to know to take its part in steps `first` to `last` - 1: plain data, passed on as JSON.

    Args:
      config, recipe, seed: as those of the experiment.
      parts: of `MeshTraining`.
      processes, devices: how many there are, and how many CPU devices each has.
      port: of process 0 on this machine, where the others find it.
      start, end: the Orbax checkpoints to begin with and to leave.
      losses: a file for the losses.
    """

    config: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    parts: dict[str, int]
    processes: int
    devices: int
    port: int
    first: int
    last: int
    start: str
    end: str
    losses: str


def work(stage: Stage, number: int) -> None:
    """What process `number` does."""
    jax.config.update("jax_num_cpu_devices", stage.devices)
    if stage.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{stage.port}", stage.processes, number)
    config, recipe = (
        kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
        for kind, given in ((Config, stage.config), (Recipe, stage.recipe))
    )
    training = MeshTraining(config, recipe, stage.parts)
    training.restore(Path(stage.start), stage.first)
    sizes = {"count": recipe.batch, "channels": config.channels, "frames": recipe.frames, "size": recipe.size}
    losses = [float(training.step(batch(stage.seed, step, **sizes))) for step in range(stage.first, stage.last)]
    training.save(Path(stage.end))
    if number == 0:
        Path(stage.losses).write_text(json.dumps(losses))


if __name__ == "__main__":
    work(Stage(**json.loads(sys.argv[1])), int(sys.argv[2]))
