"""What GitHub shows: a line, a table, annotations, whatever the words."""

from __future__ import annotations

import pytest

from parity.report import github, markdown
from parity.report.markdown import as_markdown
from parity.results import STATUSES, Report
from tests.parity.report.samples import HOSTILE, UNPRINTABLE, report, result


def test_a_pass_is_one_line():
    text = as_markdown(report("passed", "passed", "skipped", seconds=1.5))
    assert text.splitlines() == [
        "**parity: Passed** · 2 passed, 1 skipped in 1.5 s · largest error / bound of those that passed 0.32"
    ]


def test_what_a_pair_declares_is_said_and_no_other_note():
    notes = (
        "differs on purpose: <b>no</b> dropout",
        "not compared, as the pair says: buffer(*)",
        "bound from the cache",
    )
    found = [result(name=f"a.b,n={n}", notes=notes) for n in (1, 2)]
    lines = as_markdown(Report({}, tuple(found))).splitlines()
    assert lines[0].startswith("**parity: Passed**")
    assert lines[1:] == [
        "",
        r"- a.b: differs on purpose: &lt;b\>no&lt;/b\> dropout",
        r"- a.b: not compared, as the pair says: buffer\(\*\)",
    ]
    assert as_markdown(Report({}, (result("failed", notes=notes),))).count("differs on purpose") == 1


def test_what_did_not_pass_is_a_table_the_worst_first():
    lines = as_markdown(report(*STATUSES)).splitlines()
    assert lines[0].startswith("**parity: Error** · 1 passed, 1 failed, 1 skipped, 1 inconclusive, 1 error")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:7]]
    assert [row[1] for row in rows] == ["error", "failed", "inconclusive"]
    assert rows[1][2] == "output"
    assert rows[1][4] == "causal is aligned to the other corner"
    assert lines[-1] == "Again: `parity run --case S1,i=4`"


def test_a_long_table_is_cut_and_says_so():
    text = as_markdown(report(*["failed"] * 50))
    assert text.count("\n| S1") == 20
    assert "30 more did not pass." in text


def test_hostile_words_are_words(tmp_path):
    words = {"cause": HOSTILE + "|`a`\n\n# b", "command": "a ``` b `"}
    found = Report({}, (result("failed", "@all <b>|" + UNPRINTABLE, **words),))
    markdown.write(found, tmp_path / "m.md")
    text = (tmp_path / "m.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| ") and "failed" in line]
    unescaped = row.replace("\\|", "")
    assert unescaped.count("|") == 6
    assert "<" not in row
    assert "@all" not in row
    assert "```` a ``` b ` ````" in text


@pytest.mark.parametrize("words", [HOSTILE, UNPRINTABLE, "100 %: a,b\r\nc", "::set-output name=a::b"])
def test_an_annotation_is_one_line(words):
    line = github.annotation(result("failed", words, cause=words, reason=words))
    assert line.startswith("::error title=parity%3A ")
    assert "\n" not in line
    assert "\r" not in line
    title = line.removeprefix("::error title=").split("::")[0]
    assert ":" not in title
    assert "," not in title


def test_annotations_and_summary_of_a_run(tmp_path, capsys):
    (tmp_path / "summary.md").write_text("# before\n")
    github.write(report(*STATUSES), {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "::error title=parity%3A S1%2Ci=1 failed::causal is aligned to the other corner%0Abecause of S1,i=1"
        "%0Aparity run --case S1,i=1",
        "::error title=parity%3A S1%2Ci=4 error::because of S1,i=4%0Aparity run --case S1,i=4",
    ]
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# before\n**parity: Error**")


def test_only_on_github():
    assert github.here({"GITHUB_ACTIONS": "true"})
    assert not github.here({})
    assert not github.here({"GITHUB_ACTIONS": "false"})
