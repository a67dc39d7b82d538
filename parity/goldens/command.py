"""`parity record` and `parity replay`, with their options understood."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from parity.errors import BadInput
from parity.goldens import file
from parity.goldens import record as recording
from parity.goldens.golden import Reference
from parity.pairs.session import PairPlan
from parity.pipeline import Plan, Run
from parity.report import Writer
from parity.results import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_NOTHING
from parity.runner import run_and_report, run_pairs, shown


def record(plans: Sequence[Plan], path: Path, *, quiet: bool) -> int:
    """Run the references and write the golden."""
    console = Console()
    references: list[Reference] = []
    with shown(console, sum(len(plan.cases) for plan in plans), quiet) as (listener, heard):
        found = Run({}, listener)

        def use(session: Any) -> None:
            session.heard = heard
            try:
                session.run(session.plan.cases, found.collect)
            finally:  # interrupted, too: what there is has been computed
                references.append(session.reference())

        for plan in plans:
            try:
                found.within(plan.session, use)
            except BadInput as error:
                if len(plans) == 1:
                    raise
                for case in plan.cases:  # of this one; what the others gave is kept
                    found.collect(recording.unable(plan, case, str(error)))
            if found.interrupted:
                break
    golden = recording.golden(plans, references, " ".join(["parity", *sys.argv[1:]]))
    return _written(console, path, golden, found)


def _written(console: Console, path: Path, golden: Any, found: Run) -> int:
    """Say what is where, and what is not."""
    kept = len(golden.recordings)
    for result in found.results:
        if result.reason:
            console.print(f"{result.name}: {escape(result.reason)}", highlight=False, soft_wrap=True)
    whole = path.with_name(path.name + ".partial") if found.interrupted else path
    if kept:
        file.write(whole, golden)
        size = whole.stat().st_size / 1024
        console.print(f"recorded {kept} of {len(found.results)} cases in {whole}, {size:,.0f} KiB", highlight=False)
    else:
        console.print(f"nothing recorded; {path} is as it was")
    if found.interrupted:
        return EXIT_INTERRUPTED
    if any(result.status == "error" for result in found.results):
        return EXIT_ERROR
    return 0 if kept else EXIT_NOTHING


def replay(plans: Sequence[Plan], outputs: Sequence[Writer], *, quiet: bool) -> int:
    """Judge candidates by a golden: the reports and exit codes of any run."""
    pairs = [plan for plan in plans if isinstance(plan, PairPlan)]
    if pairs:
        return run_pairs(pairs, outputs, quiet=quiet)
    if not plans:
        raise BadInput("the golden holds no case")
    return run_and_report(plans[0], outputs, quiet=quiet)
