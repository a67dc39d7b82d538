"""A trace as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.compare import Verdict
from parity.report.json import plain
from parity.trace.results import Direction, Row, Trace
from parity.trace.terminal import answer

SCHEMA = 1


def write(traces: Sequence[Trace], code: int, path: Path) -> None:
    document = {"schema": SCHEMA, "exit_code": code, "cases": [_trace(trace) for trace in traces]}
    path.write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n")


def _trace(trace: Trace) -> dict[str, Any]:
    return {
        "name": trace.case,
        "status": trace.status,
        "reason": trace.reason,
        "answer": answer(trace),
        "first": None if trace.first is None else trace.first.call.torch,
        "direction": None if trace.first is None else "backward" if trace.backward else "forward",
        "cause": trace.cause,
        "seed": trace.seed,
        "seconds": round(trace.seconds, 3),
        "notes": list(trace.notes),
        "not_aligned": list(trace.left_out),
        "modules": [_row(row) for row in trace.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    call = row.call
    return {
        "torch": call.torch,
        "flax": call.flax,
        "torch_class": call.torch_module.kind,
        "flax_class": call.flax_module.kind,
        "forward": _direction(row.forward),
        "backward": _direction(row.backward),
    }


def _direction(direction: Direction) -> dict[str, Any]:
    return {
        "state": direction.state,
        "given": _verdict(direction.given),
        "in_place": _verdict(direction.place),
        "alone": _verdict(direction.alone),
        "not_alone_because": direction.words,
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "quantity": verdict.quantity,
        "status": verdict.status,
        "reason": verdict.reason,
        "bound_ratio": verdict.bound_ratio,
        "max_error": verdict.max_error,
        "worst_index": None if verdict.worst_index is None else list(verdict.worst_index),
    }
