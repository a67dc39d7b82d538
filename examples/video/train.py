"""Train the video model in torch and in Flax from the same weights, and check that the curves of the loss coincide.

python -m examples.video.train                      # about five minutes on two cores; or `make example`
python -m examples.video.train --fault upper-left   # a wrong port: the check fails
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

from .memory import kept

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the figures are the CPU's; say another platform to try one
if __name__ == "__main__":
    kept()

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .config import Config, Recipe
from .experiment import Experiment
from .faults import FAULTS
from .picture import draw
from .sampling import sample
from .verdict import judge

app = typer.Typer(add_completion=False)
COMPILING = 15  # seconds, the Flax step's, on a core like that of the estimate


@app.command()
def main(
    steps: Annotated[int, typer.Option(help="of each whole training")] = Recipe.steps,
    batch: Annotated[int, typer.Option(help="videos a step")] = Recipe.batch,
    frames: Annotated[int, typer.Option(help="of a video")] = Recipe.frames,
    size: Annotated[int, typer.Option(help="height and width of a video")] = Recipe.size,
    seed: Annotated[int, typer.Option(help="of weights, videos and noise")] = 0,
    fault: Annotated[str, typer.Option(help=f"plant one in the Flax side: {', '.join(FAULTS)}")] = "",
    out: Annotated[Path, typer.Option(help="a folder for checkpoints and the picture")] = Path("results/video"),
) -> None:
    """Train in torch and in Flax from the same weights on the same batches, and check that the losses coincide.

    Exit 0: they do; 1: they do not; 2: sizes that cannot work; 130: interrupted, and the same command goes on.
    """
    console = Console()
    try:
        experiment = Experiment(Config(), Recipe(steps=steps, batch=batch, frames=frames, size=size), seed, fault)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    torch.set_num_threads(1)  # so small a model gains little by two, and loses much where others want the cores
    try:
        passed = compare(experiment, out, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the checkpoints in {out}")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if passed else 1)


def compare(experiment: Experiment, out: Path, console: Console) -> bool:
    """Train all runs, draw the picture, print the verdict; whether it is passed."""
    torch_run, flax_run, *_ = runs = experiment.runs
    console.print(f"{sum(run.steps for run in runs)} steps in {len(runs)} trainings; {_estimate(experiment)}")
    trainings, curves = {}, {}
    columns = TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        whole = progress.add_task("all", total=sum(run.steps for run in runs))
        for run in runs:
            task, before = progress.add_task(run.name, total=run.steps), sum(map(len, curves.values()))

            def done(taken: int, task: int = task, before: int = before) -> None:
                progress.update(task, completed=taken)
                progress.update(whole, completed=before + taken)

            trainings[run.name], curves[run.name] = experiment.train(run, out, done=done)
    verdict = judge(curves, flax_run.name, experiment.recipe.early)
    recipe = experiment.recipe
    shape = (2, experiment.config.channels, recipe.frames, recipe.size, recipe.size)
    samples = {run.name: sample(trainings[run.name].predict, shape, experiment.seed) for run in (torch_run, flax_run)}
    picture = out / f"curves-{experiment.fault or 'right'}.png"
    draw(picture, curves, flax_run.name, verdict, samples)
    last = {run.name: np.mean(curves[run.name][-20:]) for run in (torch_run, flax_run)}
    console.print("last 20 losses, mean: " + ", ".join(f"{name} {loss:.5f}" for name, loss in last.items()))
    console.print(verdict.words)
    console.print(f"{'PASSED' if verdict.passed else 'FAILED'}; see {picture}")
    return verdict.passed


def _estimate(experiment: Experiment) -> str:
    """From three steps of torch: Flax's are about as long, and the truth's twice."""
    trial, took = experiment.runs[0].make(), []
    for step in range(3):
        start = time.perf_counter()
        float(trial.step(experiment.batch(step)))
        took.append(time.perf_counter() - start)
    steps = sum(run.steps * (2 if run.name == "float64" else 1) for run in experiment.runs)
    return (
        f"this takes about {(min(took) * steps + COMPILING) / 60:.1f} minutes, less where it goes on from checkpoints"
    )


if __name__ == "__main__":
    app()
