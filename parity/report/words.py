"""Words that several reports share."""

from __future__ import annotations

from parity.results import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_MISMATCH,
    EXIT_NOTHING,
    CaseResult,
    Report,
)

# Notes of what a pair's author has declared to be another: every report says so.
DECLARED = ("differs on purpose", "not compared")
# What deserves attention comes first.
ATTENTION = ("error", "failed", "inconclusive")
_EXITS = {
    0: "Passed",
    EXIT_MISMATCH: "Mismatch",
    EXIT_ERROR: "Error",
    EXIT_NOTHING: "Not proved",
    EXIT_INTERRUPTED: "Interrupted",
}


def verdict(report: Report) -> str:
    """The exit code in a word or two."""
    return _EXITS[report.exit_code]


def meaning(report: Report) -> str:
    """What that verdict means, in a sentence."""
    if report.interrupted:
        return "Not all cases were judged: the run was stopped, or a shard is missing."
    if report.exit_code == EXIT_ERROR:
        return "A case could not be judged: a side died or timed out, or the harness is at fault."
    if report.exit_code == EXIT_MISMATCH:
        return "The candidate is not the function that it should be."
    if report.exit_code == EXIT_NOTHING:
        return "Nothing was compared." if not report.counts["inconclusive"] else "Something could not be decided."
    return "Candidate and truth agree." if report.results else "This part has no cases."


def counts(report: Report) -> str:
    """For example "3 passed, 1 failed"."""
    return ", ".join(f"{n:,} {status}" for status, n in report.counts.items() if n) or "no cases"


def largest_ratio(report: Report) -> str:
    """How near to the bound the nearest of the cases that passed came; empty if none did."""
    ratios = [verdict.bound_ratio for r in report.results if r.status == "passed" for verdict in r.verdicts]
    return f"largest error / bound of those that passed {ratio(max(ratios))}" if ratios else ""


def by_attention(report: Report) -> list[CaseResult]:
    """The cases that did not pass first, the worst of them in front; skipped ones last."""
    order = (*ATTENTION, "passed", "skipped")
    return sorted(report.results, key=lambda result: order.index(result.status))


def notes(report: Report, *starts: str) -> list[str]:
    """Each note once, behind the names of what it is about; only those that begin so, where that is said."""
    found = dict[str, set[str]]()
    for result in report.results:
        for note in result.notes:
            if not starts or note.startswith(starts):
                found.setdefault(note, set()).add(result.name.split(",")[0])
    return [f"{', '.join(sorted(about))}: {note}" for note, about in found.items()]


def explanation(result: CaseResult) -> str:
    """The likely cause if there is one, else the reason."""
    return result.cause or result.reason


def label(result: CaseResult) -> str:
    return result.name if result.implementation == "auto" else f"{result.name} [{result.implementation}]"


def ratio(number: float) -> str:
    return f"{number:.2f}" if number < 100 else f"{number:.3g}"
