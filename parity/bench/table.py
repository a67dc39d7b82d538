"""What a person sees of a bench run: a table for each row and mode as it is done, and the goals at the end."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.bench.messages import NO_BIAS_GRADIENT
from parity.bench.results import OURS, BenchReport, Measurement, Race

MIB = 2**20
# In the environment: processes that ran or waited to, on average over the minute before the run.
LOAD = "load average"
_LEGEND = (
    "median and spread (interquartile range / median) of a call; memory beyond inputs and results: by memory_analysis "
    "(JAX), max_memory_allocated (torch on a GPU) or the process's peak RSS growth (~: torch on a CPU, and JAX there "
    "where that is more); error: largest |error| against float64, in brackets in roundings, where an honest "
    "computation stays below 16; vs best: times as fast as the best peer (*), median of the rounds' ratios; "
    "! no peer here, as it lacks the bias' gradient"
)
_UNABLE = {"refused": "dim", "skipped": "dim", "raised": "yellow", "lost": "bold magenta"}


def console_of_some_width() -> Console:
    """Where there is no terminal to ask for its width, wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_race(console: Console, race: Race) -> None:
    """All contenders, fastest first, then those that could not, with their words."""
    console.print(f"\n[bold]{escape(race.row.name)}[/]  {race.mode}", highlight=False, soft_wrap=True)
    able = [found for found in race.measurements if found.status in ("timed", "inspected") or found.samples]
    able.sort(key=lambda found: found.summary.median if found.summary else float("inf"))
    if able:
        console.print(_grid(race, able))
    for found in race.measurements:
        if found.status in _UNABLE:
            style = _UNABLE[found.status]
            words = f"[{style}]{found.contender} {found.status}: {escape(found.words)}[/]"
            console.print(f"  {words}", highlight=False, soft_wrap=True)
    ours = race.get(OURS)
    if ours is not None and ours.note:
        console.print(f"  [dim]{OURS}: {escape(ours.note.splitlines()[0])}[/]", highlight=False, soft_wrap=True)


def _grid(race: Race, able: list[Measurement]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("contender", overflow="fold")
    for heading in ("median ms", "spread", "TFLOP/s", "MiB", "error", "vs best"):
        grid.add_column(heading, justify="right", no_wrap=True)
    best = race.best_peer()
    for found in able:
        mark = " *" if found is best else " !" if found.note == NO_BIAS_GRADIENT else ""
        runs = f" ({found.runs})" if found.runs else ""
        style = "bold cyan" if found.contender == OURS else ""
        grid.add_row(f"{found.contender}{runs}{mark}", *_numbers(race, found), style=style)
    return grid


def _numbers(race: Race, found: Measurement) -> tuple[str, ...]:
    summary, ratio = found.summary, race.ratio(found)
    tilde = "~" if found.memory_by.startswith("peak RSS") else ""
    return (
        "" if summary is None else f"{summary.median * 1e3:.3f}",
        "" if summary is None else f"{summary.spread:.0%}",
        "" if summary is None else f"{race.row.flops(race.mode) / summary.median / 1e12:.3g}",
        "" if found.memory is None else f"{tilde}{found.memory / MIB:.1f}",
        _error(found),
        "" if ratio is None else f"{ratio:.2f}x",
    )


def _error(found: Measurement) -> str:
    """That of the quantity that is worst in roundings."""
    if not found.errors:
        return ""
    worst = max(found.errors, key=lambda error: (error.roundings != error.roundings, error.roundings))
    return f"{worst.largest:.1e} ({worst.roundings:.2g})"


def print_verdicts(console: Console, report: BenchReport) -> None:
    """Every goal that is about this device; a goal that nothing was measured for says so."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("goal", overflow="fold")
    grid.add_column("stated", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("measured", overflow="fold")
    for verdict in report.verdicts:
        mark = {True: "[green]met[/]", False: "[bold red]missed[/]", None: "[dim]not measured[/]"}[verdict.met]
        grid.add_row(escape(verdict.goal), verdict.stated, mark, escape(verdict.figure))
    console.print()
    if report.races:
        console.print(f"[dim]{_LEGEND}[/]", highlight=False)
        console.print()
    console.print(grid)
    busy = float(report.environment.get(LOAD, 0)) / int(report.environment.get("cpus", 1))
    if report.device == "cpu" and busy > 0.25:
        console.print(
            f"[yellow]this machine was busy before the run (load {report.environment[LOAD]} on "
            f"{report.environment['cpus']} CPUs). torch's threads wait by spinning and lose more to that than XLA's: "
            "repeat it on an idle one before believing a ratio.[/]",
            soft_wrap=True,
        )
    met = [verdict.met for verdict in report.verdicts if verdict.met is not None]
    interrupted = "[bold red]interrupted[/]: " if report.interrupted else ""
    console.print(
        f"{interrupted}{sum(met)} of {len(met)} goals met, {len(report.races)} races in {report.seconds:.0f} s on "
        f"{report.device}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
