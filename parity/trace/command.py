"""Trace plans one after the other, and show what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from parity.errors import BadInput
from parity.pairs.session import PairPlan
from parity.report.passes import Passes
from parity.results import EXIT_INTERRUPTED
from parity.trace import json, terminal
from parity.trace.results import Trace, exit_code
from parity.trace.session import TraceSession


def run(plans: Sequence[PairPlan], path: Path | None, *, quiet: bool) -> int:
    """All cases; a pair whose modules cannot be brought together costs its own only. Ctrl-C keeps what there is."""
    console = Console()
    traces: list[Trace] = []
    interrupted = False
    try:
        for plan in plans:
            _pair(console, plan, traces, quiet=quiet)
    except KeyboardInterrupt:
        interrupted = True
    code = EXIT_INTERRUPTED if interrupted else exit_code(traces)
    if path is not None:
        json.write(traces, code, path)
    return code


@contextlib.contextmanager
def _passes(console: Console, quiet: bool) -> Iterator[Passes]:
    """How far it is: on a terminal always, elsewhere a line now and then."""
    if console.is_terminal:
        with console.status("watching both sides") as status:
            yield Passes(status.update, log=False)
    else:
        yield Passes(lambda words: None if quiet else print(words, flush=True), log=True)


def _pair(console: Console, plan: PairPlan, traces: list[Trace], *, quiet: bool) -> None:
    try:
        with contextlib.closing(TraceSession(plan)) as session, _passes(console, quiet) as session.heard:
            for case in plan.cases:
                traces.append(session.trace(case))  # type: ignore[arg-type]
                terminal.print_trace(console, traces[-1], quiet=quiet)
    except BadInput as error:
        for case in plan.cases:
            traces.append(Trace(case.name, "failed", str(error), seed=plan.seed))
            terminal.print_trace(console, traces[-1], quiet=quiet)
