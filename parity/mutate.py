"""`parity mutate`: every port of the catalogue against every case of a suite, and which quantity caught which.

The ports are torch, where a case costs milliseconds. The cases are shared out to processes; in each, truth and
reference are computed once a case and all ports are held against them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import fnmatch
import json as json_module
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from parity import criterion, suites, tensors
from parity.cases import Case
from parity.compare import compare
from parity.dropout import judge_dropout
from parity.errors import BadInput
from parity.report import terminal
from parity.results import EXIT_INTERRUPTED, EXIT_MISMATCH


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one case says of one port: the quantities that failed (or "raised"), and the largest error / bound."""

    port: str
    case: str
    failed: tuple[str, ...]
    ratio: float


@dataclasses.dataclass(frozen=True)
class Port:
    """A row of the catalogue, without its code: the parent process imports no torch."""

    name: str
    family: str
    mistake: str
    honest: bool


def catalogue() -> list[Port]:
    """The rows of the catalogue; runs in a worker."""
    from parity.mutants import CATALOGUE

    return [Port(m.name, m.family, m.mistake, m.honest) for m in CATALOGUE.values()]


def judge_case(case: Case, ports: Sequence[str], seed: int) -> list[Finding]:
    """All ports on one case; runs in a worker."""
    import attend_torch
    from parity import mutants, worker_torch
    from parity.messages import Job, Options
    from parity.spec import interface

    worker_torch.set_up(Options(device="cpu"))
    arrays = tensors.make(case, seed)
    job = Job(0, case, arrays, seed=seed)

    def results(target: type) -> dict:  # type: ignore[type-arg]
        return worker_torch.run(target, interface(target, "torch"), job)

    reference = results(attend_torch.Attend)
    expectations = criterion.attention(case, arrays) if case.kind == "exact" else {}
    findings = []
    for name in ports:
        if mutants.CATALOGUE[name].honest and not case.finite:
            continue  # NaN and inf are specified for the einsum implementation only (S17)
        try:
            candidate = results(mutants.CATALOGUE[name].build())
        except Exception:  # a port that raises where the reference answers is caught, as in `parity run`
            findings.append(Finding(name, case.name, ("raised",), float("inf")))
            continue
        if case.kind == "dropout":
            verdicts = judge_dropout(case, arrays, reference, candidate, criterion.attention)
        else:
            verdicts = compare(expectations, reference, candidate)
        failed = tuple(verdict.quantity for verdict in verdicts if verdict.status == "failed")
        findings.append(Finding(name, case.name, failed, max((v.bound_ratio for v in verdicts), default=0.0)))
    return findings


def main(suite: str, glob: str | None, seed: int, json: Path | None, *, quiet: bool) -> int:
    """Run the matrix, print it, and return 0 if all wrong ports are caught and no honest one is rejected.

    Raises:
      BadInput: no port matches the glob.
    """
    start, console = time.monotonic(), Console()
    cases = [attention.case() for attention in suites.suite(suite)]
    # The slow ones first, so that no process is left alone with one at the end.
    cases.sort(key=lambda case: -sum(math.prod(spec.shape) for spec in case.tensors))
    findings: list[Finding] = []
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        try:
            ports = [port for port in pool.submit(catalogue).result() if fnmatch.fnmatchcase(port.name, glob or "*")]
            if not ports:
                raise BadInput(f"--mutant {glob!r} matches no port; leave it out to see them all")
            names = [port.name for port in ports]
            futures = [pool.submit(judge_case, case, names, seed) for case in cases]
            with terminal.progress(console) as bar:
                for future in bar.track(
                    concurrent.futures.as_completed(futures), total=len(futures), description="cases"
                ):
                    findings += future.result()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            return EXIT_INTERRUPTED
    return _finish(console, suite, ports, findings, json, time.monotonic() - start, quiet=quiet)


def _finish(
    console: Console,
    suite: str,
    ports: list[Port],
    findings: list[Finding],
    json: Path | None,
    seconds: float,
    *,
    quiet: bool,
) -> int:
    smoke = {attention.name for attention in suites.suite("smoke")}
    rows: list[dict[str, Any]] = []
    for port in ports:
        mine = [finding for finding in findings if finding.port == port.name]
        kills = [finding for finding in mine if finding.failed]
        rows.append({
            "name": port.name, "family": port.family, "mistake": port.mistake, "honest": port.honest,
            "caught": bool(kills), "caught_by_smoke": any(kill.case in smoke for kill in kills),
            "cases": len(kills), "quantities": sorted({name for kill in kills for name in kill.failed}),
            "largest_ratio": max(finding.ratio for finding in mine),
            "example": kills[0].case if kills else "",
        })  # fmt: skip
    wrong, honest = ([row for row in rows if row["honest"] is flag] for flag in (False, True))
    survivors = [row for row in wrong if not row["caught"]]
    rejected = [row for row in honest if row["caught"]]
    if json is not None:
        summary = {
            "wrong": len(wrong),
            "caught": len(wrong) - len(survivors),
            "honest": len(honest),
            "rejected": len(rejected),
        }
        document = {"schema": 1, "suite": suite, "seconds": round(seconds, 1), "summary": summary, "ports": rows}
        text = json_module.dumps(document, indent=1, default=str).replace(": Infinity", ': "Infinity"')
        json.write_text(text.replace(": NaN", ': "NaN"') + "\n")
    if not quiet:
        wide = console if console.is_terminal else Console(width=160)  # a log has no width
        wide.print(_table(rows, suite))
    for row in survivors:
        console.print(f"[bold red]SURVIVED[/] {row['name']}: {row['mistake']}", soft_wrap=True)
    for row in rejected:
        console.print(
            f"[bold red]REJECTED[/] honest {row['name']} in {row['example']}: {', '.join(row['quantities'])}",
            soft_wrap=True,
        )
    share = f"{100 * (len(wrong) - len(survivors)) / len(wrong):.0f} %" if wrong else "none there"
    by_smoke = sum(row["caught_by_smoke"] for row in wrong)
    console.print(
        f"wrong ports: {len(wrong) - len(survivors)} of {len(wrong)} caught by {suite} ({share}), {by_smoke} by smoke; "
        f"honest ports: {len(rejected)} of {len(honest)} rejected; {seconds:.0f} s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return EXIT_MISMATCH if survivors or rejected else 0


# The columns of the matrix; whatever else failed (dropout's statistics) is under "other".
_COLUMNS = {
    "output": "out",
    "dquery": "dq",
    "dkey": "dk",
    "dvalue": "dv",
    "dbias": "db",
    "logsumexp": "lse",
    "raised": "raised",
}


def _table(rows: list[dict[str, Any]], suite: str) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    headings = ["port", "smoke", suite, "cases", *_COLUMNS.values(), "other", "error/bound", "what it gets wrong"]
    for heading in headings:
        centred = heading in ("other", *_COLUMNS.values())
        right = heading in ("cases", "error/bound")
        grid.add_column(heading, justify="center" if centred else "right" if right else "left", no_wrap=True)
    for row in rows:
        good = "[green]passes[/]", "[bold red]rejected[/]"
        caught = good[row["caught"]] if row["honest"] else ("[bold red]survives[/]", "[green]caught[/]")[row["caught"]]
        smoke = "" if row["honest"] else ("[dim]no[/]", "yes")[row["caught_by_smoke"]]
        marks = ["x" if name in row["quantities"] else "" for name in _COLUMNS]
        other = "x" if set(row["quantities"]) - set(_COLUMNS) else ""
        grid.add_row(
            row["name"], smoke, caught, str(row["cases"]), *marks, other, f"{row['largest_ratio']:.2g}", row["mistake"]
        )
    return grid
