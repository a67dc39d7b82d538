"""The report of a bench run as JSON, and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from parity.attention import Attention
from parity.bench.accuracy import Error
from parity.bench.results import BenchReport, Measurement, Race, Verdict
from parity.bench.rows import Row
from parity.report.json import plain

SCHEMA = 1


def as_json(report: BenchReport) -> dict[str, Any]:
    """What was measured, each sample of it, and beside it what follows: median, TFLOP/s, ratios.

    Times are seconds, memory is bytes; numbers that JSON lacks are "NaN", "Infinity", "-Infinity".
    """
    document = {
        "schema": SCHEMA,
        "kind": "bench",
        "environment": dict(report.environment),
        "command": report.command,
        "device": report.device,
        "seed": report.seed,
        "repeats": report.repeats,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
        "check": report.check,
        "exit_code": report.exit_code,
        "verdicts": [dataclasses.asdict(verdict) for verdict in report.verdicts],
        "races": [
            {
                "row": race.row.name,
                "kind": race.row.kind,
                "mode": race.mode,
                "measurements": [_measurement(race, found) for found in race.measurements],
            }
            for race in report.races
        ],
    }
    result: dict[str, Any] = plain(document)
    return result


def _measurement(race: Race, found: Measurement) -> dict[str, Any]:
    summary, best = found.summary, race.best_peer()
    fields = dataclasses.asdict(found)
    fields["samples"], fields["errors"] = list(found.samples), [dataclasses.asdict(error) for error in found.errors]
    return fields | {
        "median": None if summary is None else summary.median,
        "quartiles": None if summary is None else [summary.lower, summary.upper],
        "tflops": None if summary is None else race.row.flops(race.mode) / summary.median / 1e12,
        "best_peer": None if best is None else best.contender,
        "ratio": race.ratio(found),
    }


def write(report: BenchReport, path: Path) -> None:
    path.write_text(json.dumps(as_json(report), indent=1, allow_nan=False) + "\n")


def read(path: Path) -> BenchReport:
    """The inverse of `write`; what follows from the samples is left to be computed again."""
    document = json.loads(path.read_text())
    races = tuple(
        Race(
            Row(Attention.parse(race["row"]), race["kind"]), race["mode"],
            tuple(_read_measurement(fields) for fields in race["measurements"]),
        )
        for race in document["races"]
    )  # fmt: skip
    verdicts = tuple(Verdict(**fields) for fields in document["verdicts"])
    plainly = ("environment", "command", "device", "seed", "repeats", "seconds", "interrupted", "check")
    return BenchReport(races=races, verdicts=verdicts, **{name: document[name] for name in plainly})


def _read_measurement(fields: dict[str, Any]) -> Measurement:
    known = {field.name: fields[field.name] for field in dataclasses.fields(Measurement)}
    known["samples"] = tuple(known["samples"])
    known["errors"] = tuple(
        Error(error["quantity"], float(error["largest"]), float(error["roundings"])) for error in known["errors"]
    )
    return Measurement(**known)
