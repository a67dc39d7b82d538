"""The HTML report: one file without a network, for a person in a hurry.

The page holds the table as HTML, so that it reads without scripts, and each case as a line of JSON, from which
report.js builds a case's details when it is opened: a thousand cases open as fast as one.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from parity.report import words
from parity.report.json import as_json
from parity.results import STATUSES, CaseResult, Report

SYMBOL = {"passed": "✓", "failed": "✗", "skipped": "–", "inconclusive": "?", "error": "!"}
_TEMPLATES = Path(__file__).parent / "templates"
# Before the table: with scripts, rows after the first hundred are laid out when the page can be used already.
_EARLY = 'document.documentElement.classList.add("js");'
# What a script element must not hold; in a JSON string an escape says the same.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    label: str
    status: str
    explanation: str
    command: str
    quantity: str = ""
    ratio: str = ""
    fill: float = 0.0  # of the bar, in percent; full at the bound
    error: str = ""
    reference_error: str = ""


def write(report: Report, path: Path) -> None:
    path.write_text(as_html(report), encoding="utf-8", errors="replace")


def as_html(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    ordered = words.by_attention(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        words=words,
        rows=[_row(result) for result in ordered],
        causes=_causes(ordered),
        symbols=SYMBOL,
        statuses=[status for status in (*words.ATTENTION, "passed", "skipped") if report.counts[status]],
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        early=Markup(_EARLY),
        # Only these scripts run, whatever else should ever find its way into the page.
        hashes=Markup(" ".join(map(_hash, (_EARLY, script)))),
        data=_data(dataclasses.replace(report, results=tuple(ordered))),
    )


def _row(result: CaseResult) -> Row:
    row = Row(words.label(result), result.status, words.explanation(result), result.command)
    worst = result.worst
    if worst is None:
        return row
    return dataclasses.replace(
        row,
        quantity=worst.quantity,
        ratio=words.ratio(worst.bound_ratio),
        fill=round(100 * min(worst.bound_ratio, 1.0), 1),
        error=f"{worst.max_error:.1e}",
        reference_error=f"{worst.reference_error:.1e}",
    )


def _causes(results: list[CaseResult]) -> list[tuple[str, int]]:
    """What explains most of what did not pass."""
    found = collections.Counter(words.explanation(r) for r in results if r.status in words.ATTENTION)
    return found.most_common(3)


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _data(report: Report) -> Markup:
    """The cases as a JSON list, each on a line of its own, safe within a script element."""
    lines = [json.dumps(_shorter(case), allow_nan=False, separators=(",", ":")) for case in as_json(report)["cases"]]
    return Markup("[\n" + ",\n".join(lines).translate(_ESCAPES) + "\n]")


def _shorter(value: Any) -> Any:
    """Numbers to the nine digits that a person is shown, which tell any two in float32 apart."""
    if isinstance(value, dict):
        return {key: _shorter(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorter(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


assert set(SYMBOL) == set(STATUSES)
