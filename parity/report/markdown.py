"""The Markdown report, for a pull request or a job's summary: a line, what pairs declare, a table of what failed."""

from __future__ import annotations

import re
from pathlib import Path

from parity.report.words import (
    ATTENTION,
    DECLARED,
    by_attention,
    counts,
    explanation,
    label,
    largest_ratio,
    notes,
    ratio,
    verdict,
)
from parity.results import CaseResult, Report

# A comment on a pull request is read, not scrolled.
_MOST = 20
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&@$-])")


def as_markdown(report: Report) -> str:
    """One line if all is well, one more for each difference that a pair declares, and the table if it is not."""
    largest = largest_ratio(report)
    line = f"**parity: {verdict(report)}** · {counts(report)} in {report.seconds:.1f} s" + (largest and f" · {largest}")
    found = [result for result in by_attention(report) if result.status in ATTENTION]
    declared = [f"- {_plain(note, most=300)}" for note in notes(report, *DECLARED)]
    line = "\n".join([line, "", *declared]) if declared else line
    if not found:
        return line + "\n"
    rows = ["| case | status | worst quantity | error / bound | likely cause or reason |", "|---|---|---|---:|---|"]
    rows += [_row(result) for result in found[:_MOST]]
    more = [f"\n{len(found) - _MOST} more did not pass."] if len(found) > _MOST else []
    again = ["", f"Again: {_code(found[0].command)}"]
    return "\n".join([line, "", *rows, *more, *again]) + "\n"


def write(report: Report, path: Path) -> None:
    path.write_text(as_markdown(report), encoding="utf-8", errors="replace")


def _row(result: CaseResult) -> str:
    worst = result.worst
    numbers = (_plain(worst.quantity), ratio(worst.bound_ratio)) if worst else ("", "")
    cells = (_plain(label(result)), result.status, *numbers, _plain(explanation(result), most=200))
    return f"| {' | '.join(cells)} |"


def _plain(text: str, most: int = 120) -> str:
    """Words that mean nothing to Markdown or HTML, on one line."""
    text = " ".join(text.split())
    short = text if len(text) <= most else text[: most - 1] + "…"
    return _SPECIAL.sub(r"\\\1", short).replace(r"\<", "&lt;").replace(r"\@", "@\u200b")


def _code(text: str) -> str:
    """As code, between more backticks than the text has in a row."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
