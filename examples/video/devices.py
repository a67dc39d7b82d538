"""Train the video model on a mesh of devices, and check that the loss is that of one device.

python -m examples.video.devices --mesh data=2,heads=4
python -m examples.video.devices --mesh frames=4 --processes 2    # two processes of two devices
python -m examples.video.devices --mesh data=8 --then pixels=2    # saved by eight devices, gone on with by two
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import orbax.checkpoint
import torch
import typer
from rich.console import Console
from rich.table import Table

from .config import Config, Recipe
from .experiment import Experiment
from .mesh_train import AXES, Stage
from .verdict import Verdict, judge

app = typer.Typer(add_completion=False)
Parts = dict[str, int]


@app.command()
def main(
    mesh: Annotated[str, typer.Option(help=f"devices along each axis, as data=2,heads=4; of {', '.join(AXES)}")],
    then: Annotated[str, typer.Option(help="half-way through, save by Orbax and go on with this mesh")] = "",
    processes: Annotated[int, typer.Option(help="that share the devices, under jax.distributed")] = 1,
    devices: Annotated[
        int, typer.Option(help="the most there are, in all processes; the CPU is made into what the mesh has")
    ] = 8,
    steps: Annotated[int, typer.Option(help="of the training")] = 20,
    batch: Annotated[int, typer.Option(help="videos a step")] = 8,
    frames: Annotated[int, typer.Option(help="of a video")] = 8,
    size: Annotated[int, typer.Option(help="height and width of a video")] = 8,
    memory: Annotated[int, typer.Option(help="keys before the frames, which go round a ring with them")] = 4,
    seed: Annotated[int, typer.Option(help="of weights, videos and noise")] = 0,
    out: Annotated[Path, typer.Option(help="a folder for the references' checkpoints")] = Path("results/video"),
) -> None:
    """Train on a mesh from torch's weights, and check that the losses are those of one device, to rounding.

    Exit 0: they are; 1: they are not; 2: a mesh or sizes that cannot work.
    """
    try:
        recipe = Recipe(steps=steps, batch=batch, frames=frames, size=size, early=min(steps, Recipe.early))
        experiment = Experiment(Config(memory=memory), recipe, seed)
        meshes = [parts_of(words) for words in (mesh, then) if words]
        for parts in meshes:
            check(parts, experiment, processes, devices)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    torch.set_num_threads(1)
    raise typer.Exit(0 if compare(experiment, meshes, processes, out, Console()).passed else 1)


def parts_of(words: str) -> Parts:
    """The parts of each axis.

    Raises:
      ValueError: not of that form, or an axis that the model does not have.

    >>> parts_of("data=2,heads=4")
    {'data': 2, 'heads': 4}
    """
    found: Parts = {}
    for word in words.split(","):
        if (match := re.fullmatch(r"\s*(\w+)=([1-9]\d*)\s*", word)) is None:
            raise ValueError(f"expected a mesh as data=2,heads=4; got {words!r}")
        name, size = match.groups()
        if name not in AXES:
            raise ValueError(f"the axes that can be cut are {', '.join(AXES)}; got {name!r}")
        if name in found:
            raise ValueError(f"expected each axis once; got {words!r}")
        found[name] = int(size)
    return found


def check(parts: Parts, experiment: Experiment, processes: int, devices: int) -> None:
    """Raises ValueError, before anything is computed, where the mesh cannot be had or cannot cut the arrays."""
    config, recipe = experiment.config, experiment.recipe
    needed, said = math.prod(parts.values()), ",".join(f"{name}={size}" for name, size in parts.items())
    if needed > devices:
        raise ValueError(f"the mesh {said} has {needed} devices, and there are {devices}; take a smaller one")
    if processes < 1 or needed % processes:
        raise ValueError(f"the {needed} devices of the mesh {said} cannot be shared equally by {processes} processes")
    rows = recipe.size // 2 ** (len(config.widths) - 1)
    for name, what, size in (
        ("data", "the videos of a batch", recipe.batch),
        ("heads", "the heads of an attention", config.heads),
        ("frames", "the frames of a video", recipe.frames),
        ("frames", "the frames and the memory before them, which go round the ring", recipe.frames + config.memory),
        ("pixels", f"the rows of a frame at the coarsest of {len(config.widths)} levels", rows),
    ):
        if size % parts.get(name, 1):
            raise ValueError(f"{name}={parts[name]} must divide {what}; got {size}")
    beside = [name for name in ("heads", "frames", "pixels") if parts.get(name, 1) > 1]
    if len(beside) > 1:
        # Of what is cut in space and held twice along another axis; tests/examples/test_video_devices.py has it bare.
        raise ValueError(
            f"only one of heads, frames and pixels can be cut beside data; got {said}. XLA (jax 0.10.2) would double "
            "gradients of the convolutions between the attentions, see docs/video.md"
        )


def compare(experiment: Experiment, meshes: list[Parts], processes: int, out: Path, console: Console) -> Verdict:
    """Train on one device all that is judged by, then on the meshes; print both curves and the verdict."""
    curves = {}
    for run in experiment.runs:
        with console.status(f"one device: {run.name}"):
            curves[run.name] = experiment.train(run, out)[1]
    with console.status("the mesh"):
        curves["mesh"] = train(experiment, meshes, processes)
    verdict = judge(curves, "mesh", experiment.recipe.early)
    table = Table("step", "one device", "mesh", "difference", "difference from float64 / bound")
    one, many, steps = curves["flax"], curves["mesh"], len(curves["mesh"])
    for step in sorted({*range(0, steps, max(1, steps // 10)), steps - 1}):
        ratio = f"{verdict.early[step] / verdict.early_bound[step]:.2f}" if step < len(verdict.early) else ""
        table.add_row(str(step), f"{one[step]:.7f}", f"{many[step]:.7f}", f"{many[step] - one[step]:.1e}", ratio)
    console.print(table)
    console.print(f"largest difference from one device {np.max(np.abs(many - one)):.1e}")
    console.print(verdict.words if steps > len(verdict.early) else verdict.words.splitlines()[0])
    console.print("PASSED" if verdict.passed else "FAILED")
    return verdict


def train(experiment: Experiment, meshes: list[Parts], processes: int) -> np.ndarray:
    """The losses (steps,) of a training that goes from mesh to mesh, by an Orbax checkpoint each time."""
    flax = next(run for run in experiment.runs if run.name.startswith("flax"))
    bounds = np.linspace(0, flax.steps, len(meshes) + 1).astype(int).tolist()
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "0", flax.make().arrays())
        for n, parts in enumerate(meshes):
            stage = Stage(
                config=dataclasses.asdict(experiment.config),
                recipe=dataclasses.asdict(experiment.recipe),
                seed=experiment.seed,
                parts=parts,
                processes=processes,
                devices=math.prod(parts.values()) // processes,
                port=free_port(),
                first=bounds[n],
                last=bounds[n + 1],
                start=str(folder / str(n)),
                end=str(folder / str(n + 1)),
                losses=str(folder / "losses.json"),
            )
            launch(stage)
            losses += json.loads(Path(stage.losses).read_text())
            shutil.rmtree(folder / str(n))
    return np.asarray(losses)


def launch(stage: Stage) -> None:
    """Runs the processes of a stage to their end.

    Raises:
      RuntimeError: one of them failed: what it said. The others, which would wait for it, are ended.
    """
    command = [sys.executable, "-m", "examples.video.mesh_train", json.dumps(dataclasses.asdict(stage))]
    root = Path(__file__).parents[2]
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(stage.processes)]
        runs = [
            subprocess.Popen([*command, str(number)], stdout=words, stderr=subprocess.STDOUT, cwd=root)
            for number, words in enumerate(said)
        ]
        try:
            while any(run.poll() is None for run in runs) and not any(run.poll() for run in runs):
                time.sleep(0.1)
            for number, (run, words) in enumerate(zip(runs, said, strict=True)):
                if run.poll():
                    words.seek(0)
                    raise RuntimeError(f"process {number} of {stage.processes} failed:\n{words.read()}")
        finally:
            for run in runs:
                run.kill()
                run.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    app()
