"""`parity compare A B`: two goldens, judged by the bounds of the first; or two files of named tensors, bit for bit."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from parity.cases import Arrays
from parity.compare import Verdict, compare, worst
from parity.criterion import attention
from parity.dropout import judge_dropout
from parity.goldens import file
from parity.goldens.differences import differences
from parity.goldens.golden import ATTENTION, INPUT, RESULT, Golden, Recording
from parity.pairs.judge import judge
from parity.pairs.messages import REFERENCE
from parity.report import terminal
from parity.results import EXIT_MISMATCH, CaseResult, Report
from parity.runner import finish
from parity.weights import files


def main(first: Path, second: Path, ulps: int, *, quiet: bool) -> int:
    """Print what differs. The exit code is 0 where nothing does."""
    (arrays, metadata), (others, theirs) = files.contents(first), files.contents(second)
    if not file.is_golden(metadata):
        return _plain(arrays, others, ulps, quiet=quiet)
    golden = file.read(first)
    results = _judged(golden, others, file.read(second) if file.is_golden(theirs) else None)
    command = shlex.join(["parity", "compare", str(first), str(second)])
    report = Report({}, tuple(dataclasses.replace(result, command=command) for result in results))
    if not quiet:
        for result in report.results:
            print(terminal.line(result))
    return EXIT_MISMATCH if finish(Console(), report, [], quiet=quiet) else 0


def _plain(first: Arrays, second: Arrays, ulps: int, *, quiet: bool) -> int:
    console = Console()
    found = list(differences(first, second, ulps))
    unequal = [difference for difference in found if difference.reason]
    for difference in unequal:
        console.print(f"{difference.name}: {difference.reason}", markup=False, highlight=False, soft_wrap=True)
    within = f" within {ulps} ulps" if ulps else ""
    if not quiet or unequal:
        most = max((difference.ulps for difference in found), default=0)
        console.print(
            f"{len(found) - len(unequal)} of {len(found)} tensors are equal{within}; at most {most} ulps apart"
        )
    return EXIT_MISMATCH if unequal or not found else 0


def _judged(golden: Golden, arrays: Arrays, other: Golden | None) -> Iterator[CaseResult]:
    """The results of the second file as a candidate's."""
    theirs = {} if other is None else other.recordings
    for name, recording in golden.recordings.items():
        verdicts: list[Verdict] = []
        problem = _differently_fed(recording, theirs.get(name), other)
        found = _results(recording, arrays, alone=len(golden.recordings) == 1)
        if recording.raised:
            status, problem = "skipped", f"the reference raised {recording.raised}"
        elif problem:
            status = "failed"
        elif not found:
            status, problem = "failed", f"the second file has nothing named {name}/{RESULT}…"
        else:
            verdicts = _verdicts(golden.kind, recording, found)
            status = worst([verdict.status for verdict in verdicts])
            bad = [verdict for verdict in verdicts if status != "passed" and verdict.status == status]
            problem = "; ".join(f"{verdict.quantity}: {verdict.reason}" for verdict in bad)
        yield _result(name, status, problem, recording, verdicts)
    for name in theirs.keys() - golden.recordings.keys():
        yield _result(name, "failed", "only in the second file", theirs[name], [])


def _differently_fed(recording: Recording, theirs: Recording | None, other: Golden | None) -> str:
    """Two goldens say something of each other only where both references had the same inputs."""
    if other is None:
        return ""
    if theirs is None:
        return "missing in the second file"
    if theirs.raised and not recording.raised:
        return f"the second reference raised {theirs.raised}"
    unequal = [d.name for d in differences(recording.part(INPUT), theirs.part(INPUT)) if d.reason]
    return f"recorded with another {', '.join(unequal)}: another seed?" if unequal else ""


def _results(recording: Recording, arrays: Arrays, *, alone: bool) -> dict[str, np.ndarray]:
    """By quantity: CASE/reference/QUANTITY as a golden has it, CASE/QUANTITY, or QUANTITY where there is one case."""
    case = recording.case.name + "/"
    found = {name.removeprefix(case + RESULT): a for name, a in arrays.items() if name.startswith(case + RESULT)}
    wanted = recording.part(RESULT)
    for prefix in (case, "") if alone else (case,):
        found = found or {name: arrays[prefix + name] for name in wanted if prefix + name in arrays}
    return found


def _verdicts(kind: str, recording: Recording, found: dict[str, np.ndarray]) -> list[Verdict]:
    reference, case = recording.outcome(0, kind), recording.case
    if kind != ATTENTION:
        assert RESULT == REFERENCE
        return judge(reference.arrays, found)
    if case.kind == "exact":
        return compare(recording.expectations(), reference.arrays, found)
    return judge_dropout(case, recording.part(INPUT), reference.arrays, found, attention)


def _result(name: str, status: str, reason: str, recording: Recording, verdicts: list[Verdict]) -> CaseResult:
    return CaseResult(
        name, status, reason, 0, recording.case.dtype, "auto", "", "", "", "", tuple(verdicts), case=recording.case
    )
