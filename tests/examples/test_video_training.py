"""The training's check passes for the right port and fails for wrong ones; what was interrupted goes on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from examples.video.config import Config, Recipe
from examples.video.data import batch, signal
from examples.video.experiment import Experiment
from examples.video.picture import draw
from examples.video.sampling import sample
from examples.video.train import app
from examples.video.verdict import judge

TINY = Config(widths=(4,), attends=(False,), heads=2, head_dim=4, bias_width=4, memory=3, time_width=4, feed_forward=0)
SHORT = Recipe(steps=9, batch=2, frames=3, size=4, rate=2e-2, warm_up=2, early=7)
RIGHT = Experiment(TINY, SHORT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def curves(folder):
    """Of the right port, and of all that it is judged by."""
    return {run.name: RIGHT.train(run, folder)[1] for run in RIGHT.runs}


def test_the_right_port_passes(curves):
    verdict = judge(curves, "flax", SHORT.early)
    assert verdict.passed, verdict.words
    assert curves["torch"][-1] != curves["torch"][0]
    assert "above 1" not in verdict.words


@pytest.mark.parametrize("fault", ["upper-left", "bias-gradient"])
def test_a_wrong_port_fails_in_the_first_steps(curves, folder, fault):
    wrong = dataclasses.replace(RIGHT, fault=fault)
    flax = wrong.runs[1]
    assert flax.name == f"flax-{fault}"
    verdict = judge({**curves, flax.name: wrong.train(flax, folder)[1]}, flax.name, SHORT.early)
    assert not verdict.passed
    assert verdict.early_ratio > 10
    assert "above 1 from step" in verdict.words


@pytest.mark.parametrize("name", ["torch", "flax"])
def test_an_interrupted_run_goes_on_with_the_same_curve(curves, tmp_path, name):
    (run,) = (run for run in RIGHT.runs if run.name == name)
    taken = []

    def interrupt(steps):
        taken.append(steps)
        if steps == 6 and len(taken) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RIGHT.train(run, tmp_path, every=4, done=interrupt)
    taken.clear()
    _, losses = RIGHT.train(run, tmp_path, every=4, done=taken.append)
    assert taken[0] == 4
    np.testing.assert_array_equal(losses, curves[name])
    assert list(tmp_path.glob("*.unfinished")) == []


@pytest.mark.usefixtures("curves")
def test_other_settings_are_another_checkpoint(folder):
    taken = []
    other = dataclasses.replace(RIGHT, seed=1)
    other.train(other.runs[0], folder, done=taken.append)
    assert taken[0] == 0


LINE = np.linspace(1, 0.5, 60)
MADE = {
    "torch": LINE, "flax": LINE, "float64": LINE[:20], "nudged-1": LINE, "seed-1": LINE + 0.1, "seed-2": LINE - 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("step", "off", "passed"),
    [(5, 1e-7, True), (5, 1e-6, False), (5, np.nan, False), (30, 0.1, True), (30, 1.0, False), (59, np.nan, False)],
)
def test_a_curve_is_off_at_one_step(step, off, passed):
    flax = LINE.copy()
    flax[step] += off
    verdict = judge({**MADE, "flax": flax}, "flax", early=20)
    assert verdict.passed is passed
    if not passed:
        assert f"above 1 from step {step if step < 20 else step // 20 * 20}" in verdict.words


def test_batches_depend_on_seed_and_step_alone():
    sizes = {"count": 3, "channels": 2, "frames": 5, "size": 8}
    one, again, later, other = (batch(*at, **sizes) for at in ((0, 7), (0, 7), (0, 8), (1, 7)))
    assert one.noisy.shape == one.noise.shape == (3, 2, 5, 8, 8)
    for array, same in zip(one.arrays, again.arrays, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, same)
    assert not np.array_equal(one.noisy, later.noisy)
    assert not np.array_equal(one.noisy, other.noisy)
    kept, added = (part.reshape(3, 1, 1, 1, 1) for part in signal(one.timestep))
    clean = (one.noisy - added * one.noise) / kept
    moved = clean[:, :, 1:] - clean[:, :, :-1]
    assert np.abs(clean[kept[:, 0, 0, 0, 0] > 0.5]).max() < 1.01
    assert (np.abs(moved).max((1, 2, 3, 4)) > 0.1).all()


def test_sampling_finds_what_a_perfect_model_knows():
    clean = batch(0, 0, count=2, channels=1, frames=3, size=8).noise.clip(-1, 1)

    def perfect(noisy, timestep):
        kept, added = (part.reshape(-1, 1, 1, 1, 1) for part in signal(timestep))
        return (noisy - kept * clean) / added

    np.testing.assert_allclose(sample(perfect, clean.shape, seed=0), clean, atol=1e-4)


def test_the_picture_is_drawn(curves, tmp_path):
    videos = batch(0, 0, count=2, channels=1, frames=3, size=4).noise
    verdict = judge(curves, "flax", SHORT.early)
    draw(tmp_path / "curves.png", curves, "flax", verdict, {"torch": videos, "flax": videos})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "15"], "must be multiples of 2; got 15 and 15"),
        (["--steps", "5"], "`steps` must be 20 or more; got 5"),
        (["--batch", "0"], "`batch` must be at least 1; got 0"),
        (["--fault", "nonsense"], "expected a fault of bias-gradient"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(words, reason, tmp_path):
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.output
    assert not (tmp_path / "out").exists()


def test_help_says_what_it_does():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "upper-left" in result.output
