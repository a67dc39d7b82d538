"""The reports of several shards as one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from parity.errors import BadInput
from parity.results import CaseResult, Report

# Between the values of an entry on which the environments do not agree.
_BETWEEN = " | "


def merge(reports: Mapping[str, Report]) -> Report:
    """One report of all cases, in the order given. The keys say where each report came from, for errors.

    Seconds add up, as if the shards had run one after the other; of memory it is the most. What differs between the
    environments stands there with all its values. Where a shard is missing the run counts as interrupted: its cases
    were not judged, and that must not pass for a proof.

    Raises:
      BadInput: a case is in two of them, or they are shards of different runs.
    """
    seen: dict[tuple[str, ...], str] = {}
    for source, report in reports.items():
        here = {_identity(result) for result in report.results}
        for identity in here & seen.keys():
            raise BadInput(
                f"case {identity[0]} (implementation {identity[1]}) is in both {seen[identity]} and {source}; "
                "expected shards that have no case in common: leave one out"
            )
        seen |= dict.fromkeys(here, source)
    parts = list(reports.values())
    names = dict.fromkeys(name for report in parts for name in report.environment)
    return Report(
        environment={name: _BETWEEN.join(_values(name, reports)) for name in names},
        results=tuple(result for report in parts for result in report.results),
        seconds=sum(report.seconds for report in parts),
        peak_mib=max((report.peak_mib for report in parts), default=0),
        interrupted=any(report.interrupted for report in parts) or bool(missing_shards(reports)),
        empty_shard=all(report.empty_shard for report in parts),
    )


def differences(reports: Mapping[str, Report]) -> list[str]:
    """What the environments of the reports do not agree on, in words."""
    # An empty shard starts no side, and has nothing to say of them.
    told = {source: report for source, report in reports.items() if report.results}
    found = []
    for name in dict.fromkeys(name for report in told.values() for name in report.environment if name != "shard"):
        values = _values(name, told)
        if len(values) > 1:
            each = "; ".join(f"{value} in {', '.join(sources)}" for value, sources in values.items())
            found.append(f"{name}: {each}")
    return found


def missing_shards(reports: Mapping[str, Report]) -> list[str]:
    """Those of which there is no report, as "2/3"; none if the reports do not say which shards they are."""
    told = {source: report.environment["shard"] for source, report in reports.items() if "shard" in report.environment}
    shards = {(int(i), int(n)) for text in told.values() for i, n in re.findall(r"\b(\d{1,4})/(\d{1,4})\b", text)}
    counts = {n for _, n in shards}
    if len(counts) > 1:
        each = ", ".join(f"{source} is {shard}" for source, shard in told.items())
        raise BadInput(f"expected the shards of one run; got parts of different numbers of shards: {each}")
    return [f"{i}/{n}" for n in counts for i in range(1, n + 1) if (i, n) not in shards]


def _values(name: str, reports: Mapping[str, Report]) -> dict[str, list[str]]:
    """The values of an entry of the environment, each with the reports that have it."""
    found: dict[str, list[str]] = {}
    for source, report in reports.items():
        if name in report.environment:
            found.setdefault(report.environment[name], []).append(source)
    return found


def _identity(result: CaseResult) -> tuple[str, ...]:
    return result.name, result.implementation, result.reference, result.candidate
