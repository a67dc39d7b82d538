"""The plot: time and memory against length, ours and theirs, forward and forward+backward."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity.bench.results import OURS, BenchReport, Measurement
from parity.bench.rows import MODES
from parity.errors import BadInput

SUFFIXES = (".png", ".svg")
# What is drawn: a figure's row of panels, its unit, and the number of a measurement.
PANELS: tuple[tuple[str, Callable[[Measurement], float | None]], ...] = (
    ("milliseconds a call", lambda found: found.summary.median * 1e3 if found.summary else None),
    ("MiB beyond inputs and results", lambda found: found.memory / 2**20 if found.memory else None),
)


def check(path: Path) -> None:
    """Raise BadInput unless such a plot can be drawn here."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"--plot must end in {' or '.join(SUFFIXES)}; got {path.name!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--plot needs matplotlib, which is not installed; pip install 'attend-jax[parity]'")


def write(report: BenchReport, path: Path) -> None:
    """Draw the rows of the sweep."""
    from matplotlib.figure import Figure  # the object interface draws without a display

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(len(PANELS), len(MODES), sharex=True, squeeze=False)
    for y, (unit, number) in enumerate(PANELS):
        for x, mode in enumerate(MODES):
            panel = axes[y][x]
            for name, points in _lines(report, mode, number).items():
                panel.plot(*zip(*sorted(points), strict=True), label=name, **_look(name))
            panel.set(yscale="log", title=mode if y == 0 else "", ylabel=unit)
            panel.set_xlabel("length" if y == len(PANELS) - 1 else "")
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:.0f}")
            panel.grid(alpha=0.3)
    handles, labels = _legend(axes)
    if handles:
        figure.legend(handles, labels, loc="outside right upper")
    figure.suptitle(_title(report))
    figure.savefig(path, dpi=120)


def _lines(
    report: BenchReport, mode: str, number: Callable[[Measurement], float | None]
) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for race in report.races:
        if race.mode == mode and race.row.kind == "sweep":
            for found in race.measurements:
                value = number(found)
                if value is not None:
                    lines.setdefault(found.contender, []).append((race.row.attention.q_len, value))
    return lines


def _look(name: str) -> dict[str, Any]:
    """Ours are solid, `auto` is thick."""
    if name == OURS:
        return {"linewidth": 3, "marker": "o", "color": "black", "zorder": 3}
    return {"linestyle": "-" if name.startswith("ours/") else "--", "marker": "."}


def _legend(axes: Any) -> tuple[list[Any], list[str]]:
    """Each contender once, whatever panels it is in."""
    found: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _title(report: BenchReport) -> str:
    shapes = {
        f"({a.batch}, {a.heads}, n, {a.head_dim}) {a.dtype}"
        for a in (race.row.attention for race in report.races if race.row.kind == "sweep")
    }
    device = report.environment.get("torch device", report.device) if report.device == "gpu" else "cpu"
    return f"{', '.join(sorted(shapes)) or 'no row of the sweep was measured'}, {device}"
