"""`--parity-report`: every process of pytest sends what it found with its tests' reports; one writes the file.

With pytest-xdist the tests' reports travel as JSON, with all their attributes; so do the results, pickled to a string.
"""

from __future__ import annotations

import base64
import importlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parity.errors import BadInput
from parity.report import Writer, check_writable
from parity.results import CaseResult, Report

OPTION = "--parity-report"
_FORMS = {".json": "json", ".xml": "junit", ".html": "html"}


def writer(path: Path) -> Writer:
    """What writes a report there, by the file's ending.

    Raises:
      BadInput: nothing writes that ending, or the file cannot be written.
    """
    if path.suffix not in _FORMS:
        raise BadInput(f"{OPTION} takes a file that ends in {', '.join(_FORMS)}; got {path}")
    check_writable(OPTION, path)
    name = f"parity.report.{_FORMS[path.suffix]}"
    try:
        write: Callable[[Report, Path], None] = importlib.import_module(name).write
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise BadInput(f"{OPTION}: this version writes no {path.suffix}; take .json or .xml") from None
    return lambda report: write(report, path)


class Sender:
    """Puts what was found with each test into its report."""

    def __init__(self, take: Callable[[], Report]) -> None:
        self._take = take

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        answer = yield
        found = self._take()
        if found.results:
            process = os.environ.get("PYTEST_XDIST_WORKER", "")
            answer.parity = (process, base64.b64encode(pickle.dumps(found)).decode())  # type: ignore[attr-defined]
        return answer


class ReportFile:
    """Collects what was sent, and writes it once, when all tests are done."""

    def __init__(self, path: Path) -> None:
        self._path, self._write = path, writer(path)
        self._results: list[CaseResult] = []
        self._environment: dict[str, str] = {}
        self._peaks: dict[str, int] = {}  # of each process of pytest, with its workers
        self._start = time.monotonic()
        self._said = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        process, text = getattr(report, "parity", ("", ""))
        if text:
            found: Report = pickle.loads(base64.b64decode(text))
            self._results += found.results
            self._environment |= found.environment
            self._peaks[process] = max(self._peaks.get(process, 0), found.peak_mib)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        seconds, peak = time.monotonic() - self._start, sum(self._peaks.values())
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        report = Report(self._environment, tuple(self._results), seconds, peak, interrupted)
        counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n) or "no cases"
        try:
            self._write(report)
        except OSError as error:  # the folder was there when we looked
            self._said = f"parity: {counts}; the report could not be written: {error}"
        else:
            self._said = f"parity: {counts}; report in {self._path}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(self._said)
