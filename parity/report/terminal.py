"""What a person sees: progress while it runs, a table, and for each failure what to act on."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from parity.compare import Verdict
from parity.report.words import label, notes, ratio
from parity.results import CaseResult, Report

STYLE = {"passed": "green", "failed": "bold red", "skipped": "dim", "inconclusive": "yellow", "error": "bold magenta"}


def progress(console: Console) -> Progress:
    """A bar with an estimate, for a terminal."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, transient=True,
    )  # fmt: skip


def line(result: CaseResult) -> str:
    """One case in one plain line, for CI."""
    worst = result.worst
    largest = f" {worst.quantity} {ratio(worst.bound_ratio)}" if worst else ""
    reason = f"  {result.reason}" if result.reason else ""
    return f"{result.status:<12} {label(result)}{largest}{reason}"


def table(results: Iterable[CaseResult]) -> Table:
    """All cases: the worst quantity, its error over the bound, and the reference's own error."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("case", overflow="fold")
    grid.add_column("status")
    grid.add_column("worst quantity")
    grid.add_column("error / bound", justify="right")
    grid.add_column("error", justify="right")
    grid.add_column("reference's", justify="right")
    for result in results:
        status = f"[{STYLE[result.status]}]{result.status}[/]"
        worst = result.worst
        if worst is None:
            grid.add_row(escape(label(result)), status, f"[dim]{escape(result.reason[:60])}[/]", "", "", "")
            continue
        grid.add_row(
            escape(label(result)), status, worst.quantity, ratio(worst.bound_ratio),
            f"{worst.max_error:.1e}", f"{worst.reference_error:.1e}",
        )  # fmt: skip
    return grid


def details(result: CaseResult) -> str:
    """What to know about a case that did not pass."""
    lines = [f"[{STYLE[result.status]}]{result.status.upper()}[/] [bold]{escape(label(result))}[/]"]
    if result.cause:
        lines.append(f"  likely cause: [bold]{escape(result.cause)}[/]")
    if not result.verdicts:
        lines.append(f"  {escape(result.reason)}")
    for verdict in result.verdicts:
        if verdict.status == result.status:
            lines.append(f"  {verdict.quantity}: {escape(verdict.reason)}")
            lines += _numbers(verdict)
    return "\n".join([*lines, f"  again: [cyan]{escape(result.command)}[/]"])


def summary(report: Report) -> str:
    """The verdict in one line."""
    counts = ", ".join(f"[{STYLE[status]}]{n} {status}[/]" for status, n in report.counts.items() if n) or "no cases"
    ratios = [v.bound_ratio for r in report.results if r.status == "passed" for v in r.verdicts]
    largest = f"; largest error / bound of those that passed {ratio(max(ratios))}" if ratios else ""
    interrupted = "[bold red]interrupted[/]: " if report.interrupted else ""
    return f"{interrupted}{counts} in {report.seconds:.1f} s, {report.peak_mib} MiB{largest}"


def _numbers(verdict: Verdict) -> list[str]:
    if verdict.worst_index is None:
        return []
    at = ", ".join(map(str, verdict.worst_index))
    bound = "" if verdict.bound is None else f"  bound {verdict.bound:.3g}  error / bound {ratio(verdict.bound_ratio)}"
    return [
        f"    worst at \\[{at}]: candidate {verdict.candidate:.9g}  reference {verdict.reference:.9g}  "
        f"truth {verdict.truth:.9g}{bound}"
    ]


def print_report(console: Console, report: Report, *, quiet: bool) -> None:
    """The table, the failures, the verdict."""
    if not quiet:
        console.print(table(report.results))
    for result in report.results:
        if result.status in ("failed", "error", "inconclusive"):
            console.print(details(result), highlight=False, soft_wrap=True)
    skips = {result.reason for result in report.results if result.status == "skipped"}
    if not quiet:
        for reason in sorted(skips):
            n = sum(result.reason == reason for result in report.results)
            console.print(f"[dim]skipped {n}: {escape(reason)}[/]", soft_wrap=True)
    for note in notes(report):
        console.print(f"[dim]{escape(note)}[/]", highlight=False, soft_wrap=True)
    console.print(summary(report), highlight=False, soft_wrap=True)
