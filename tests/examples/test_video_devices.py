"""The same training on a mesh has one device's curve; what cannot be cut is refused before anything runs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from typer.testing import CliRunner

from attend_jax import ring
from examples.video.config import Config, Recipe
from examples.video.devices import app, check, launch, parts_of, train
from examples.video.experiment import Experiment
from examples.video.mesh_train import MeshTraining, Stage
from examples.video.verdict import judge

TINY = Config(
    widths=(4,), attends=(False,), heads=4, head_dim=2, bias_width=4, memory=8, time_width=4, feed_forward=0
)  # fmt: skip
SHORT = Recipe(steps=4, batch=4, frames=4, size=4, rate=2e-2, warm_up=2, early=4)
RIGHT = Experiment(TINY, SHORT)


@pytest.fixture(scope="module", autouse=True)
def compiled_in_half_the_time():
    """Most of what these tests do is to compile; the bounds stay what they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that are started
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """All that a curve is judged by in the first steps; test_video_training.py judges Flax's on one device."""
    folder = tmp_path_factory.mktemp("video")
    runs = [run for run in RIGHT.runs if run.name.startswith(("torch", "float64", "nudged"))]
    found = {run.name: RIGHT.train(run, folder)[1] for run in runs}
    return {**found, "seed-1": found["torch"]}  # there are no later steps


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """An Orbax checkpoint of the training's start."""
    path = tmp_path_factory.mktemp("orbax") / "start"
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, RIGHT.runs[1].make().arrays())
    return path


def passed(curves, found):
    verdict = judge({**curves, "mesh": np.asarray(found)}, "mesh", SHORT.early)
    assert verdict.passed, verdict.words


@pytest.mark.many_devices
def test_from_mesh_to_mesh_with_the_curve_of_one_device(curves, start, tmp_path, monkeypatch):
    """Heads on eight devices, saved by Orbax, gone on with by two that share the frames in a ring."""
    path, found, rings, run = start, [], [], ring.run
    monkeypatch.setattr(ring, "run", lambda problem, axis, *rest: rings.append(axis) or run(problem, axis, *rest))
    for mesh, steps in (("data=2,heads=4", (0, 1)), ("frames=2", (2, 3))):
        training = MeshTraining(TINY, SHORT, parts_of(mesh))
        training.restore(path, steps[0])
        before = {name: array.sharding for name, array in training.state().items()}
        found += [float(training.step(RIGHT.batch(step))) for step in steps]
        for name, array in training.state().items():
            assert array.sharding.is_equivalent_to(before[name], array.ndim), name
        path = tmp_path / mesh
        training.save(path)
    assert set(rings) == {("frames",)}
    passed(curves, found)


def test_two_processes_have_the_curve_of_one_device(curves):
    """A ring over the pixels, from process to process."""
    passed(curves, train(RIGHT, [{"pixels": 2}], processes=2))


def test_a_process_that_fails_says_why():
    nothing = dict.fromkeys(("seed", "port", "first", "last", "start", "end", "losses"))
    stage = Stage(
        dataclasses.asdict(TINY), dataclasses.asdict(SHORT), parts={"data": 4}, processes=1, devices=2, **nothing
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"(?s)process 0 of 1 failed:.* the mesh needs 4 devices; JAX has 2 cpu"):
        launch(stage)


@pytest.mark.many_devices
def test_heads_are_cut_in_weights_and_optimiser(start):
    training = MeshTraining(TINY, SHORT, parts_of("data=2,heads=4"))
    training.restore(start, 0)
    state = training.state()
    for side in ("0.", "1.opt_state.1.0.mu.", "1.opt_state.1.0.nu."):
        for attention in ("space", "time"):
            block = f"{side}middle.blocks.0.{attention}"
            parts = {"query": (4, 2), "key": (4, 2), "value": (4, 2), "out": (2, 4)}
            for name, shape in parts.items():
                assert state[f"{block}.{name}.kernel"].addressable_shards[0].data.shape == shape
            assert state[f"{block}_bias.leave.kernel"].addressable_shards[0].data.shape == (4, 1)
        assert state[f"{side}middle.blocks.0.time.memory_key"].addressable_shards[0].data.shape == (1, 8, 2)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("data=3", "data=3 must divide the videos of a batch; got 8"),
        ("heads=3", "heads=3 must divide the heads of an attention; got 8"),
        ("frames=3", "frames=3 must divide the frames of a video; got 8"),
        ("frames=8", "frames=8 must divide the frames and the memory before them, which go round the ring; got 12"),
        ("pixels=8", "pixels=8 must divide the rows of a frame at the coarsest of 2 levels; got 4"),
        ("data=4,heads=4", "the mesh data=4,heads=4 has 16 devices, and there are 8"),
        ("heads=2,pixels=2", "only one of heads, frames and pixels can be cut beside data; got heads=2,pixels=2"),
        ("rows=2", "the axes that can be cut are data, heads, frames, pixels; got 'rows'"),
        ("data=2,data=2", "expected each axis once"),
        ("data=0", "expected a mesh as data=2,heads=4; got 'data=0'"),
        ("data", "expected a mesh as data=2,heads=4; got 'data'"),
    ],
)
@pytest.mark.parametrize("option", ["--mesh", "--then"])
def test_what_cannot_be_cut_is_refused_before_anything_runs(words, reason, option, tmp_path):
    arguments = ["--mesh", words] if option == "--mesh" else ["--mesh", "data=2", "--then", words]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert reason in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processes", [0, 3])
def test_processes_that_cannot_share_are_refused(processes):
    with pytest.raises(ValueError, match=f"the 4 devices of the mesh data=4 cannot be shared equally by {processes}"):
        check({"data": 4}, RIGHT, processes, 8)


@pytest.mark.many_devices
def test_xla_still_doubles_the_gradient_that_is_refused():
    """Take the refusal out of `devices.check`, and this with it, when it fails."""
    mesh = jax.make_mesh((2, 2), ("heads", "pixels"), (AxisType.Auto, AxisType.Auto))
    rng = np.random.default_rng(0)
    x, cotangent, kernel = (
        rng.standard_normal(shape).astype("float32") for shape in ((8, 4, 4, 3), (8, 4, 4, 5), (3, 3, 3, 5))
    )

    def loss(kernel, x, cotangent):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(y * cotangent)

    cut = NamedSharding(mesh, PartitionSpec(None, None, "pixels"))
    gradient = jax.jit(jax.grad(loss))
    right, wrong = gradient(kernel, x, cotangent), gradient(kernel, *jax.device_put((x, cotangent), cut))
    np.testing.assert_allclose(wrong, 2 * right, rtol=1e-3, atol=1e-4)
