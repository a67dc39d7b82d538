"""Reports: each module turns a `Report` into one form. None of them computes anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parity.errors import BadInput
from parity.results import Report

if TYPE_CHECKING:
    from rich.console import Console

Writer = Callable[[Report], None]


def check_writable(option: str, path: Path) -> None:
    """Raise BadInput unless a file can be written there: before the run, so that nothing is lost."""
    if path.is_dir():
        raise BadInput(f"{option} must be a file; {path} is a folder")
    if not path.parent.is_dir():
        raise BadInput(f"{option}: there is no folder {path.parent}; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"{option}: {path} cannot be written")


def writers(
    *,
    json: Path | None = None,
    junit: Path | None = None,
    html: Path | None = None,
    markdown: Path | None = None,
    save_failures: Path | None = None,
    annotate: bool = False,
) -> list[Writer]:
    """What is to be written at the end, each path already checked. To `annotate`: tell GitHub, if it runs us."""
    from parity.report import github, tensors
    from parity.report import html as html_report
    from parity.report import json as json_report
    from parity.report import junit as junit_report
    from parity.report import markdown as markdown_report

    found: list[Writer] = []
    for option, path, write in (
        ("--json", json, json_report.write),
        ("--junit", junit, junit_report.write),
        ("--html", html, html_report.write),
        ("--markdown", markdown, markdown_report.write),
    ):
        if path is not None:
            check_writable(option, path)
            found.append(lambda report, write=write, path=path: write(report, path))  # type: ignore[misc]
    if save_failures is not None:
        if save_failures.exists() and not save_failures.is_dir():
            raise BadInput(f"--save-failures must be a folder; {save_failures} is a file")
        try:
            save_failures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--save-failures: {save_failures} cannot be created ({error.strerror})") from None
        if not os.access(save_failures, os.W_OK):
            raise BadInput(f"--save-failures: {save_failures} cannot be written")
        found.append(lambda report: tensors.write(report, save_failures))
    if annotate and github.here():
        found.append(github.write)
    return found


def write_all(report: Report, outputs: Sequence[Writer], console: Console) -> None:
    """Write each; one that fails is told, and the others are written all the same."""
    for write in outputs:
        try:
            write(report)
        except OSError as error:  # the folder was there when we looked
            console.print(f"a report could not be written: {error}", style="bold red", markup=False, soft_wrap=True)
