"""The picture: both curves, how far apart they are and may be, and what both models have learned to draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .verdict import WINDOW, Verdict

matplotlib.use("Agg")


def draw(
    path: Path, curves: Mapping[str, np.ndarray], flax: str, verdict: Verdict, samples: Mapping[str, np.ndarray]
) -> None:
    """A PNG. `samples` are videos (b c f h w) by the side that drew them."""
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    left, right = above.subplots(1, 2)
    _losses(left, curves, flax)
    _differences(right, curves, flax, verdict)
    figure.suptitle(
        f"{flax} against torch: " + ("the curves coincide" if verdict.passed else "the curves do NOT coincide"),
        color="black" if verdict.passed else "crimson",
    )
    _frames(below, samples)
    figure.savefig(path, dpi=110)


def _losses(axes: Axes, curves: Mapping[str, np.ndarray], flax: str) -> None:
    for name in curves:
        if name.startswith("seed"):
            axes.plot(
                curves[name], color="0.8", linewidth=0.8, label="torch, other seeds" if name == "seed-1" else None
            )
    axes.plot(curves["torch"], color="tab:orange", linewidth=2.2, label="torch")
    axes.plot(curves[flax], color="tab:blue", linewidth=0.8, label=flax)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="loss on the same batches")
    axes.legend()


def _differences(axes: Axes, curves: Mapping[str, np.ndarray], flax: str, verdict: Verdict) -> None:
    def difference(name: str) -> np.ndarray:
        return np.maximum(np.abs(curves[name] - curves["torch"]), 1e-9)  # a zero has no logarithm

    axes.plot(difference(flax), color="tab:blue", linewidth=0.9, label=f"|{flax} - torch|")
    axes.plot(
        difference("nudged-1"), color="tab:green", linewidth=0.6, label="|torch, weights nudged by rounding - torch|"
    )
    early = np.arange(len(verdict.early))
    axes.plot(early, verdict.early_bound, color="black", linewidth=1.5, label="bound by rounding, first steps")
    for start, bound in zip(verdict.windows, verdict.later_bound, strict=True):
        label = "what the seed alone causes" if start == verdict.windows[0] else None
        axes.plot([start, start + WINDOW], [bound, bound], color="0.5", linewidth=2, label=label)
    axes.set(xlabel="step", yscale="log", title="difference")
    axes.legend(fontsize="small")


def _frames(figure: Figure, samples: Mapping[str, np.ndarray]) -> None:
    """A row a side, the frames of its videos from left to right."""
    frames = sum(video.shape[0] * video.shape[2] for video in list(samples.values())[:1])
    grid = figure.subplots(len(samples), frames, squeeze=False)
    for row, (name, videos) in zip(grid, samples.items(), strict=True):
        for axes, frame in zip(row, videos[:, 0].reshape(-1, *videos.shape[-2:]), strict=True):
            axes.imshow(frame, cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    figure.suptitle("sampled frames, from the same noise", fontsize="medium")
