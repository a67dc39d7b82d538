"""`parity mutate --pair`: would these inputs notice? Honest and wrong ports of a user's pair, judged as the port is.

Wrong are those that the pair names, and faults planted in one submodule of the port (planted.py). The torch side
computes once a case and seed, for all of them.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json as json_module
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.compare import Verdict
from parity.errors import BadInput
from parity.pairs.messages import HONEST, PLANTED, PORT, SUBTLE, WRONG
from parity.pairs.session import PairPlan, PairSession
from parity.report import terminal
from parity.report.json import plain
from parity.results import EXIT_INTERRUPTED, EXIT_MISMATCH, EXIT_NOTHING, CaseResult


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one variant of one pair over all cases and seeds."""

    pair: str
    variant: str
    results: tuple[CaseResult, ...]
    effect: bool = True

    @property
    def honest(self) -> bool:
        return self.variant == PORT or self.variant.startswith(HONEST)

    @property
    def rejected(self) -> tuple[CaseResult, ...]:
        return tuple(result for result in self.results if result.status in ("failed", "error"))

    @property
    def largest(self) -> Verdict | None:
        """The quantity with the largest error / bound."""
        verdicts = (verdict for result in self.results for verdict in result.verdicts)
        return max(verdicts, key=lambda verdict: verdict.bound_ratio, default=None)

    @property
    def ratio(self) -> float:
        return self.largest.bound_ratio if self.largest else 0.0

    @property
    def quantities(self) -> list[str]:
        """What noticed it, the most frequent first."""
        found = [v.quantity for result in self.rejected for v in result.verdicts if v.status == "failed"]
        named = sorted(dict.fromkeys(found), key=lambda name: -found.count(name))  # in the order of the results
        return named or (["raised"] if self.rejected else [])

    @property
    def required(self) -> bool:
        """Whether it has to be caught: not if it changes nothing here, nor what 16 bits are too coarse to show."""
        coarse = any(result.dtype != "float32" for result in self.results)
        return self.effect and not (coarse and self.variant.startswith((WRONG, SUBTLE)))

    @property
    def raised(self) -> bool:
        """Whether nothing was computed: a planted fault that raises has not been planted, which catches nothing."""
        return not any(result.verdicts for result in self.results)

    @property
    def outcome(self) -> str:
        if self.honest:
            passed = all(result.status == "passed" for result in self.results)
            return "rejected" if self.rejected else "passes" if passed else "not judged"
        if self.rejected and self.raised and self.variant.startswith((PLANTED, SUBTLE)):
            return "not planted"
        if self.rejected:
            return "caught"
        return "survives" if self.required else "no effect" if not self.effect else "too subtle"


def main(plans: Sequence[PairPlan], glob: str | None, seeds: int, json: Path | None, *, quiet: bool) -> int:
    """Run all variants of all pairs, print the table, and return 0 if all wrong ones are caught and no honest one is
    rejected, 4 where an honest one was not judged: the reference raised, or the bound was too wide.

    Raises:
      BadInput: no variant matches the glob; a pair's modules cannot be brought together.
    """
    start, console = time.monotonic(), Console()
    rows: list[Row] = []
    interrupted = False
    try:
        for plan in plans:
            rows += _rows(console, plan, glob, seeds)
    except KeyboardInterrupt:
        interrupted = True
    if not rows and not interrupted:
        raise BadInput(f"--mutant {glob!r} matches no port; leave it out to see them all")
    if json is not None:
        _write(rows, seeds, json, time.monotonic() - start)
    _show(console, rows, time.monotonic() - start, seeds, quiet=quiet)
    if interrupted:
        return EXIT_INTERRUPTED
    if any(row.outcome == "not judged" for row in rows):
        return EXIT_NOTHING
    return EXIT_MISMATCH if any(row.outcome in ("survives", "rejected") for row in rows) else 0


def _rows(console: Console, plan: PairPlan, glob: str | None, seeds: int) -> Iterator[Row]:
    session = PairSession(plan)
    try:
        names = [name for name in session.variants if name == PORT or fnmatch.fnmatchcase(name, glob or "*")]
        found: dict[str, list[CaseResult]] = {name: [] for name in names}
        with terminal.progress(console) as bar:
            task = bar.add_task(plan.reference.pair, total=len(names) * len(plan.cases) * seeds)

            def collect(result: CaseResult) -> None:
                found[result.implementation].append(result)
                bar.update(task, advance=1)

            for seed in range(plan.seed, plan.seed + seeds):
                session.plan = dataclasses.replace(plan, seed=seed, implementations=tuple(names))
                session.run(plan.cases, collect)
    finally:
        session.close()
    for name, results in found.items():
        yield Row(plan.reference.pair, name, tuple(results), name == PORT or _numbers(results) != _numbers(found[PORT]))


def _numbers(results: Sequence[CaseResult]) -> list[tuple[object, ...]]:
    """By which two variants are told to have computed the very same."""
    return [(v.quantity, v.max_error, v.candidate, v.status) for result in results for v in result.verdicts] + [
        (result.name, result.reason) for result in results
    ]


def _show(console: Console, rows: Sequence[Row], seconds: float, seeds: int, *, quiet: bool) -> None:
    if not quiet:
        wide = console if console.is_terminal else Console(width=160)  # a log has no width
        for grid in _tables(rows):
            wide.print(grid, "")
    for row in rows:
        if row.outcome == "survives":
            console.print(
                f"[bold red]SURVIVED[/] {escape(f'{row.pair}: {row.variant}{_closest(row)}')}", soft_wrap=True
            )
        if row.outcome in ("rejected", "not judged"):
            first = next(result for result in row.results if result.status != "passed")
            console.print(
                f"[bold red]{row.outcome.upper()}[/] {escape(f'{row.pair}: {row.variant}: {first.reason}')}\n"
                f"  {escape(first.command)}", soft_wrap=True,
            )  # fmt: skip
    wrong = [row for row in rows if not row.honest and row.required and row.outcome != "not planted"]
    honest = [row for row in rows if row.honest]
    console.print(
        f"wrong ports: {sum(row.outcome == 'caught' for row in wrong)} of {len(wrong)} caught; honest ports: "
        f"{sum(row.outcome == 'rejected' for row in honest)} of {len(honest)} rejected; {seeds} "
        f"seed{'s' if seeds > 1 else ''}, {seconds:.0f} s", highlight=False, soft_wrap=True,
    )  # fmt: skip


def _closest(row: Row) -> str:
    """Where a fault comes closest to being noticed, and what rounding does there."""
    of = row.largest
    if of is None or of.bound is None:
        return ""
    return (
        f"\n  {of.quantity}: off by {of.bound_ratio * of.bound:.2g}, {of.bound_ratio:.2g} of the bound; the reference "
        f"itself by up to {of.reference_error:.2g}"
    )


_COLOURS = {"passes": "green", "caught": "green", "rejected": "bold red", "survives": "bold red"}


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    for pair in dict.fromkeys(row.pair for row in rows):
        grid = Table(box=None, pad_edge=False, header_style="bold", title=escape(pair), title_justify="left")
        for heading in ("port", "", "in", "error/bound", "noticed by"):
            grid.add_column(heading, justify="right" if heading == "error/bound" else "left")
        for row in [row for row in rows if row.pair == pair]:
            colour = _COLOURS.get(row.outcome, "dim")
            first, more = row.quantities[:2], len(row.quantities) - 2
            noticed = ", ".join(first) + (f" and {more} more" if more > 0 else "")
            grid.add_row(
                escape(row.variant), f"[{colour}]{row.outcome}[/]", f"{len(row.rejected)} of {len(row.results)}",
                f"{row.ratio:.2g}", escape(noticed),
            )  # fmt: skip
        yield grid


def _write(rows: Sequence[Row], seeds: int, path: Path, seconds: float) -> None:
    document = {
        "schema": 1,
        "seeds": seeds,
        "seconds": round(seconds, 1),
        "ports": [
            {
                "pair": row.pair, "port": row.variant, "honest": row.honest, "outcome": row.outcome,
                "caught_in": len(row.rejected), "results": len(row.results), "largest_ratio": row.ratio,
                "quantities": row.quantities,
            }
            for row in rows
        ],
    }  # fmt: skip
    path.write_text(json_module.dumps(plain(document), indent=1) + "\n")
