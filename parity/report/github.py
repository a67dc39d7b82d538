"""What GitHub Actions shows of a run: an annotation for each failure, and a summary on the job's page.

The commands are those of https://docs.github.com/actions/reference/workflow-commands-for-github-actions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from parity.report.markdown import as_markdown
from parity.report.words import explanation, label
from parity.results import CaseResult, Report


def here(environment: Mapping[str, str] = os.environ) -> bool:
    """This is a step of GitHub Actions."""
    return environment.get("GITHUB_ACTIONS") == "true"


def write(report: Report, environment: Mapping[str, str] = os.environ) -> None:
    """Print the annotations; append to $GITHUB_STEP_SUMMARY where it is set."""
    with contextlib.suppress(BrokenPipeError):  # nobody listens, but the summary is still wanted
        for result in report.results:
            if result.status in ("failed", "error"):
                print(annotation(result).encode("utf-8", "replace").decode(), flush=True)
    summary = environment.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8", errors="replace") as file:
            file.write(as_markdown(report) + "\n")


def annotation(result: CaseResult) -> str:
    """One line, whatever the words."""
    title = f"parity: {label(result)} {result.status}"
    words = dict.fromkeys((explanation(result), result.reason, result.command))
    message = _data("\n".join(words))
    return f"::error title={_property(title)}::{message}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
