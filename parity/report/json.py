"""The JSON report; its schema is docs/report.schema.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from parity.compare import Verdict
from parity.results import Report

SCHEMA = 1


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain dicts and lists; numbers that JSON lacks are "NaN", "Infinity", "-Infinity"."""
    counts = report.counts
    counts["errors"] = counts.pop("error")
    document = {
        "schema": SCHEMA,
        "environment": dict(report.environment),
        "summary": counts,
        "interrupted": report.interrupted,
        "seconds": round(report.seconds, 3),
        "peak_mib": report.peak_mib,
        "exit_code": report.exit_code,
        "cases": [
            {
                "name": result.name,
                "status": result.status,
                "reason": result.reason,
                "cause": result.cause,
                "notes": list(result.notes),
                "seed": result.seed,
                "dtype": result.dtype,
                "implementation": result.implementation,
                "device": result.device,
                "reference": result.reference,
                "candidate": result.candidate,
                "command": result.command,
                "seconds": round(result.seconds, 4),
                "quantities": [_quantity(verdict) for verdict in result.verdicts],
            }
            for result in report.results
        ],
    }
    return plain(document)


def _quantity(verdict: Verdict) -> dict[str, Any]:
    found = {
        "quantity": verdict.quantity,
        "status": verdict.status,
        "reason": verdict.reason,
        "max_error": verdict.max_error,
        "reference_error": verdict.reference_error,
        "bound_ratio": verdict.bound_ratio,
        "worst_index": None if verdict.worst_index is None else list(verdict.worst_index),
        "candidate": verdict.candidate,
        "reference": verdict.reference,
        "truth": verdict.truth,
        "bound": verdict.bound,
        "mismatched": verdict.mismatched,
        "elements": verdict.elements,
    }
    if verdict.picture is not None:
        found["picture"] = {
            "grid": list(verdict.picture.grid),
            "groups": verdict.picture.groups,
            "folded": verdict.picture.folded,
            "histogram": dict(verdict.picture.histogram),
        }
    return found


def write(report: Report, path: Path) -> None:
    path.write_text(json.dumps(as_json(report), indent=1, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Numbers that JSON lacks become strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
