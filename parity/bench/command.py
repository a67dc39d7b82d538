"""`parity bench` from end to end: choose, measure, judge, print, write; and the exit code."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from parity.bench import goals, json, plot, table
from parity.bench.measure import Plan, entrants, measure
from parity.bench.process import Host
from parity.bench.results import BenchReport, Race
from parity.bench.rows import choose
from parity.environment import machine, versions
from parity.errors import BadInput
from parity.report import check_writable

FRAMEWORKS = ("torch", "jax")
Write = Callable[[BenchReport, Path], None]


def run(
    *, row: str | None, device: str | None, dtypes: Sequence[str], modes: Sequence[str], contender: str | None,
    repeats: int, limit: float, seed: int, sweep: bool, check: bool, json_path: Path | None, plot_path: Path | None,
    quiet: bool, command: str,
) -> int:  # fmt: skip
    """Everything that can be wrong with the input is found before the first second is measured."""
    outputs = _outputs(json_path, plot_path)
    _check_rows(device, row, dtypes)
    start, races, interrupted = time.monotonic(), list[Race](), False
    console = table.console_of_some_width()
    environment: dict[str, str] = machine() | versions() | {table.LOAD: f"{os.getloadavg()[0]:.2f}"}
    hosts: list[Host] = []
    found = device or "cpu"
    try:
        for framework in FRAMEWORKS:
            hosts.append(Host(framework, device))
        found = _one_device(hosts)
        rows = choose(found, row, dtypes, sweep=sweep or plot_path is not None)
        plan = Plan(rows, modes, contender, repeats, limit, seed)
        entrants(plan, hosts, found)
        for host in hosts:
            environment |= host.hello.environment

        def show(race: Race) -> None:
            races.append(race)
            if not quiet:
                table.print_race(console, race)

        with _progress(console, quiet) as say:
            measure(plan, hosts, found, show, say)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for host in hosts:
            host.close()
    report = BenchReport(
        environment, command, found, seed, repeats, tuple(races), goals.judge(found, races), time.monotonic() - start,
        interrupted, check,
    )  # fmt: skip
    for write, path in outputs:
        try:
            write(report, path)
        except OSError as error:  # the folder was there when we looked
            console.print(f"[bold red]{path} could not be written: {error}[/]", soft_wrap=True)
    with contextlib.suppress(BrokenPipeError):
        table.print_verdicts(console, report)
    return report.exit_code


@contextlib.contextmanager
def _progress(console: Console, quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal."""
    if quiet or not console.is_terminal:
        yield lambda words: None
        return
    with console.status("starting") as status:
        yield lambda words: status.update(escape(words))


def _outputs(json_path: Path | None, plot_path: Path | None) -> list[tuple[Write, Path]]:
    found: list[tuple[Write, Path]] = []
    if json_path is not None:
        check_writable("--json", json_path)
        found.append((json.write, json_path))
    if plot_path is not None:
        check_writable("--plot", plot_path)
        plot.check(plot_path)
        found.append((plot.write, plot_path))
    return found


def _check_rows(device: str | None, row: str | None, dtypes: Sequence[str]) -> None:
    """Raise BadInput if there are no such rows, on neither device where it is left open."""
    try:
        choose(device or "cpu", row, dtypes, sweep=True)
    except BadInput:
        if device is not None:
            raise
        choose("gpu", row, dtypes, sweep=True)


def _one_device(hosts: Sequence[Host]) -> str:
    devices = {host.framework: host.hello.device for host in hosts}
    if len(set(devices.values())) > 1:
        there = " and ".join(f"{framework} on {device}" for framework, device in devices.items())
        raise BadInput(f"both frameworks must run on one kind of device; here {there}: say --device cpu")
    return hosts[0].hello.device
