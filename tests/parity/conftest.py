"""What the tests of parity share: the command run in this process, and no collection of the planted candidates."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from parity.cli import main

collect_ignore = ["candidates"]  # they raise and die when imported, on purpose

CANDIDATES = Path(__file__).parent / "candidates"


@dataclasses.dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str
    report: dict

    @property
    def statuses(self) -> dict[str, str]:
        return {case["name"]: case["status"] for case in self.report["cases"]}

    @property
    def words(self) -> str:
        """All output on one line, whatever width the console had."""
        return re.sub(r"\s+", " ", self.out + self.err)


@pytest.fixture
def cli(capfd, monkeypatch, tmp_path):
    """`parity …` with the planted candidates in the current folder; `run` also writes a JSON report, which is read."""

    def call(*arguments: str) -> Ran:
        monkeypatch.chdir(CANDIDATES)
        monkeypatch.setenv("PARITY_SPREADS_DIR", str(tmp_path / "spreads"))  # no bounds of another test's
        path = tmp_path / "report-of-the-fixture.json"
        if arguments[:1] == ("run",) and "--json" not in arguments:
            arguments = (*arguments, "--json", str(path))
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = capfd.readouterr()
        report = json.loads(path.read_text()) if path.exists() else {}
        path.unlink(missing_ok=True)
        return Ran(stopped.value.code, captured.out, captured.err, report)

    return call
