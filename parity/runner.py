"""Run a plan and show it: progress on a terminal, plain lines elsewhere, reports at the end, the exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console

from parity import fuzz, pipeline
from parity.attention import Attention
from parity.errors import BadInput
from parity.pairs.session import PairPlan
from parity.pipeline import Listener, Plan, Run, Session
from parity.report import Writer, terminal, write_all
from parity.report.passes import Passes
from parity.results import CaseResult, Report


def run_and_report(plan: Plan, outputs: Sequence[Writer], *, quiet: bool) -> int:
    """Run all cases of a plan."""
    console = Console()
    with shown(console, len(plan.cases) * max(1, len(plan.implementations)), quiet) as (listener, _):
        report = pipeline.run(plan, listener)
    return finish(console, report, outputs, quiet=quiet)


def run_fuzz(plan: Plan, cases: Sequence[Attention], outputs: Sequence[Writer], *, quiet: bool) -> int:
    """Run random cases; each that fails is shrunk, and the small one stands beside it."""
    console = Console()
    with shown(console, len(cases), quiet) as (listener, _):
        found = Run(plan.environment, listener)

        def use(session: Session) -> None:
            session.run(plan.cases, found.collect)
            for result in [result for result in found.results if result.status in ("failed", "error")][:3]:
                found.results.append(_shrunk(session, result))

        found.within(lambda: Session(plan), use)
    return finish(console, found.report(), outputs, quiet=True)


def run_pairs(plans: Sequence[PairPlan], outputs: Sequence[Writer], *, quiet: bool) -> int:
    """Run users' pairs one after the other; one whose modules cannot be brought together costs its own cases only."""
    console = Console()
    with shown(console, sum(len(plan.cases) for plan in plans), quiet) as (listener, heard):
        found = Run(plans[0].environment, listener)

        def use(session: Session) -> None:
            session.heard = heard
            session.run(session.plan.cases, found.collect)

        for plan in [plan for plan in plans if plan.cases]:
            try:
                found.within(plan.session, use)
            except BadInput as error:
                for case in plan.cases:
                    found.collect(plan.unable(case, str(error)))
            done = [result.status in ("failed", "error") for result in found.results]
            if found.interrupted or (plan.fail_fast and any(done)):
                break
    empty = not any(plan.cases for plan in plans)
    return finish(console, found.report(empty_shard=empty), outputs, quiet=quiet)


def _shrunk(session: Session, result: CaseResult) -> CaseResult:
    """The simplest case that fails as this one does."""
    found = {result.name: result}

    def fails(attention: Attention) -> bool:
        case = attention.case()
        session.run([case], lambda outcome: found.__setitem__(outcome.name, outcome))
        return found[case.name].status == result.status

    original = Attention.parse(result.name)
    smallest = fuzz.shrink(dataclasses.replace(original, rule=original.rule + "-shrunk"), fails)
    shrunk = found.get(smallest.name, result)
    return dataclasses.replace(shrunk, reason=f"shrunk from {result.name}: {shrunk.reason}")


@contextlib.contextmanager
def shown(console: Console, total: int, quiet: bool) -> Iterator[tuple[Listener, Passes]]:
    """What shows each result, and how far a long case is: a bar on a terminal, a line elsewhere, nothing if quiet."""
    if console.is_terminal:
        with terminal.progress(console) as bar:
            task = bar.add_task("starting both sides", total=total)

            def advance(result: CaseResult) -> None:
                bar.update(task, advance=1, description=result.status)
                if result.status in ("failed", "error"):
                    bar.console.print(terminal.line(result), markup=False, highlight=False, soft_wrap=True)

            yield advance, Passes(lambda words: bar.update(task, description=words), log=False)
    elif quiet:
        yield lambda result: None, Passes(lambda words: None, log=True)
    else:
        yield lambda result: _say(terminal.line(result)), Passes(_say, log=True)


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # `parity run | head`: nobody listens, but reports and exit code are still wanted
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def finish(console: Console, report: Report, outputs: Sequence[Writer], *, quiet: bool) -> int:
    """Write first, print second: what was found is on disk before anything else can go wrong."""
    write_all(report, outputs, console)
    # Plain output has shown each case already.
    with contextlib.suppress(BrokenPipeError):
        terminal.print_report(console, report, quiet=quiet or not console.is_terminal)
    return report.exit_code
