"""A block saved by Orbax from a mesh of eight devices, and restored on another number.

python checkpoint.py FOLDER DEVICES     restores FOLDER/checkpoint in a process that has no more devices than that
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.attend_jax.models import Block


def on(devices: int) -> tuple[jax.sharding.Mesh, Any]:
    """A mesh with heads and features along one axis and the batch along the other; where each parameter goes."""
    model = min(2, devices)
    types = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((devices // model, model), ("data", "model"), types, devices=jax.devices()[:devices])
    cut = {"to_qkv": PartitionSpec(None, "model"), "to_out": PartitionSpec("model")}

    def place(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, cut[path[0].key] if leaf.ndim == 2 else PartitionSpec())

    return mesh, lambda parameters: jax.tree.map_with_path(place, parameters)


def output(parameters: Any, x: Any, mesh: jax.sharding.Mesh) -> np.ndarray:
    block = Block(sharding=NamedSharding(mesh, PartitionSpec("data", None, "model")), rngs=nnx.Rngs(1))
    graph, state = nnx.split(block)
    nnx.replace_by_pure_dict(state, parameters)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x))


def save(path: Path, x: Any) -> np.ndarray:
    mesh, places = on(8)
    parameters = nnx.to_pure_dict(nnx.state(Block(rngs=nnx.Rngs(0)), nnx.Param))
    parameters = jax.device_put(parameters, places(parameters))
    assert len(parameters["to_qkv"]["kernel"].sharding.device_set) == 8
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, parameters)
    return output(parameters, x, mesh)


def restored(path: Path, x: Any, devices: int) -> np.ndarray:
    mesh, places = on(devices)
    shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Block(rngs=nnx.Rngs(0))), nnx.Param))
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places(shapes)
    )
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        parameters = checkpointer.restore(path, target)
    assert len(parameters["to_qkv"]["kernel"].sharding.device_set) == devices
    return output(parameters, x, mesh)


def main() -> None:
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", devices)
    assert jax.device_count() == devices
    found = restored(folder / "checkpoint", np.load(folder / "x.npy"), devices)
    np.testing.assert_allclose(found, np.load(folder / "expected.npy"), rtol=1e-5, atol=1e-6)
    print(f"restored on {devices} devices")


if __name__ == "__main__":
    main()
