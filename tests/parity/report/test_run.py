"""`parity run` writing all its reports, on GitHub Actions and off, of a real failure."""

from __future__ import annotations

import jsonschema
import pytest

from parity.report.json import as_json
from parity.report.read import from_json
from tests.parity.report.test_read import SCHEMA

CASE = "S3,j=17,causal=1,bias=hij"


def test_a_failure_on_github(cli, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    out = ["--html", str(tmp_path / "r.html"), "--markdown", str(tmp_path / "r.md")]
    ran = cli("run", "--case", CASE, "--candidate", "parity.mutants:causal_upper_left", "--shard", "1/1", *out)
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if line.startswith("::error ")]
    assert line.startswith(
        "::error title=parity%3A S3%2Cj=17%2Ccausal=1%2Cbias=hij failed::causal is aligned to the upper"
    )
    assert summary.read_text().rstrip() == (tmp_path / "r.md").read_text().rstrip()
    assert "| S3,j=17,causal=1,bias=hij | failed |" in summary.read_text()
    assert "<h1>Mismatch</h1>" in (tmp_path / "r.html").read_text()

    jsonschema.validate(ran.report, SCHEMA)
    assert as_json(from_json(ran.report)) == ran.report
    assert ran.report["environment"]["shard"] == "1/1"
    pictures = {quantity["quantity"]: quantity["picture"] for quantity in ran.report["cases"][0]["quantities"]}
    assert pictures["dbias"]["folded"] == "4·13 rows × 17 columns"
    # The rows of one head: neither mask lets the upper right corner through.
    assert [row[-1] for row in pictures["dbias"]["grid"][:5]] == ["."] * 5
    assert pictures["dbias"]["grid"][0][0] in "stuvwxy"


@pytest.mark.parametrize("option", ["--html", "--markdown"])
def test_a_report_that_cannot_be_written_is_refused_before_the_run(cli, tmp_path, option):
    ran = cli("run", "--suite", "smoke", option, str(tmp_path / "no" / "report"))
    assert ran.code == 2
    assert f"{option}: there is no folder" in ran.words
