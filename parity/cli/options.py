"""Options that several commands take, and the words of exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from parity.errors import BadInput

EXITS = """Exit code: 0 all passed · 1 a mismatch · 2 bad input · 3 an error (a worker died, a bound was NaN) ·
4 nothing compared, or something inconclusive · 130 interrupted (reports are written). Skips do not fail."""

SuiteOption = Annotated[
    str, typer.Option("--suite", help="smoke, default, edge, workload, full or tiny; see `parity list`.")
]
CaseOption = Annotated[str | None, typer.Option("--case", help="Glob over case names of all suites, or a whole name.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only what did not pass, and the verdict.")]
PairOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pair",
        help="Instead: your own pair, MODULE:NAME, FILE.py[:NAME], a glob or a folder of parity_*.py. Repeatable.",
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write a JSON report (docs/report.schema.json).")]
JunitOption = Annotated[Path | None, typer.Option("--junit", help="Write a JUnit report.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a report to read in a browser, one file.")]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", help="Write one line, and a short table of what did not pass.")
]


def check_device(device: str | None) -> None:
    if device not in (None, "cpu", "gpu"):
        raise BadInput(f"--device must be cpu or gpu; got {device!r}")


def names(option: str, text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise BadInput(f"{option} must be one or more of {', '.join(known)}, separated by commas; got {name!r}")
    return names


def implementations_of(text: str | None) -> tuple[str, ...]:
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise BadInput(f"--implementation must be NAME or NAME,NAME; got {text!r}")
    return names
