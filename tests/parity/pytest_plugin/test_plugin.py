"""The pytest plugin in runs of pytest of their own."""

from __future__ import annotations

import json
import os
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from parity import pytest_report
from parity.errors import BadInput

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
CANDIDATES = ROOT / "tests" / "parity" / "candidates"
FAULTS = CANDIDATES / "parity_faults.py"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """For the processes of pytest that a test starts: this checkout, and of all plugins the one that they name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, CANDIDATES))))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def run(pytester):
    """pytest with the plugin, on a file of tests, in a process of its own."""

    def call(test, *arguments):
        pytester.makepyfile(f"import pytest\n\n{test}")
        return pytester.runpytest_subprocess("-p", "parity.pytest_plugin", "-p", "no:cacheprovider", *arguments)

    return call


ATTENTION = """
@pytest.mark.parity(candidate="parity.mutants:causal_upper_left", case="S3*", suite="smoke")
@pytest.mark.parity(candidate="parity.mutants:causal_upper_left", case="S1")
def test_port(parity_case):
    parity_case.check()

@pytest.mark.parity(candidate="third_party:function", case="S12,*")
def test_lacking(parity_case):
    parity_case.check()
"""


def test_each_case_is_a_test_and_its_status_is_the_tests(run):
    ran = run(ATTENTION, "-v", "-rs", "--parity-report", "report.json")
    ran.assert_outcomes(passed=2, failed=1, skipped=1)
    ran.stdout.fnmatch_lines_random(
        [
            "*::test_port[[]S1] PASSED*",
            "*::test_port[[]S3,causal=1] PASSED*",
            "*::test_port[[]S3,j=17,causal=1,bias=hij] FAILED*",
            "E*AssertionError: S3,j=17,causal=1,bias=hij failed: output, error / bound *",
            "E*likely cause: causal is aligned to the upper left instead of the lower right corner",
            "E*again: parity run --case S3,j=17,causal=1,bias=hij --seed 0 --candidate parity.mutants:*",
            "*the candidate does not accept mask",
            "parity: 2 passed, 1 failed, 1 skipped; report in report.json",
        ]
    )
    ran.stdout.no_fnmatch_line("*pytest_cases.py*")  # the traceback ends in the user's own line
    report = json.loads(Path("report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    assert report["summary"] == {"passed": 2, "failed": 1, "skipped": 1, "inconclusive": 0, "errors": 0}
    assert "torch" in report["environment"]


ODD = """
@pytest.mark.parity(candidate="odd:Attend", case="S1,e=1")  # it takes its process down
@pytest.mark.parity(candidate="odd:Attend", case="S1,e=3")  # it raises
def test_forgets_to_check(parity_case):
    pass

@pytest.mark.parity(candidate="no_such_module:Attend", case="S1")
def test_cannot_start(parity_case):
    parity_case.check()
"""


def test_a_case_that_nobody_checks_is_checked_and_an_error_is_an_error(run):
    ran = run(ODD, "-v")
    ran.assert_outcomes(failed=1, errors=2)
    ran.stdout.fnmatch_lines_random(
        [
            "*::test_forgets_to_check[[]S1,e=3] FAILED*",
            "*::test_forgets_to_check[[]S1,e=1] ERROR*",
            "*could not be judged: candidate: the worker died (exit code 7)",
            "S1,e=3 failed: the candidate raised ValueError: I do not like this one",
            "candidate no_such_module:Attend: there is no module 'no_such_module' *",
        ]
    )


FIXTURE = f"""
def test_right(assert_parity):
    assert_parity({str(FAULTS)!r} + ":right")

@pytest.mark.parity(case="S3*", candidate="parity.mutants:causal_upper_left")
def test_judged_by_hand(parity_case):
    assert parity_case.report.results
"""


def test_with_xdist_one_report_holds_what_all_found(run):
    pytest.importorskip("xdist")
    ran = run(FIXTURE, "-p", "xdist", "-n", "2", "--parity-report", "report.xml")
    ran.assert_outcomes(passed=3)
    ran.stdout.fnmatch_lines(["parity: 2 passed, 1 failed; report in report.xml"])
    suite = ET.parse("report.xml").getroot()
    names = sorted(str(case.get("name")) for case in suite.iter("testcase"))
    assert names == ["S3,causal=1", "S3,j=17,causal=1,bias=hij", "parity_faults.right,b=5"]
    assert suite.get("failures") == "1"
    assert {"jax", "torch"} <= {each.get("name") for each in suite.iter("property")}


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("@pytest.mark.parity()\ndef test_x(): pass", "test_x is marked parity; let it take parity_case"),
        ("def test_x(parity_case): pass", "test_x takes parity_case; mark it @pytest.mark.parity"),
        (
            "@pytest.mark.parity(sute='smoke')\ndef test_x(parity_case): pass",
            "it takes the keywords candidate, reference, suite, case, *; got sute",
        ),
        ("@pytest.mark.parity('smoke')\ndef test_x(parity_case): pass", "it takes the keywords *; got smoke"),
        ("@pytest.mark.parity(suite='smok')\ndef test_x(parity_case): pass", "must be one of smoke, *; got 'smok'"),
        ("@pytest.mark.parity(pairs='no.py')\ndef test_x(parity_case): pass", "there is no file no.py"),
    ],
    ids=["no fixture", "no marker", "keyword", "argument", "suite", "file"],
)
def test_a_misuse_is_said_when_tests_are_collected(run, test, words):
    ran = run(test)
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines([f"*{words}*"])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("report.txt", "--parity-report takes a file that ends in .json, .xml, .html; got report.txt"),
        ("no/report.json", "--parity-report: there is no folder no; create it first"),
    ],
)
def test_a_report_that_cannot_be_written_is_said_before_the_run(run, path, words):
    ran = run("def test_x(): pass", "--parity-report", path)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*{words}"])


PLACES = """
import pytest
from pathlib import Path
from parity_faults import pair

head = pair()

@pytest.mark.parity(pairs=[Path("parity_here.py"), head])
class TestPairs:
    def test_x(self, parity_case): pass
    def test_y(self): pass
"""


def test_a_path_is_found_from_the_root_of_pytest_and_an_object_in_its_module(pytester, monkeypatch):
    pytester.makeini("[pytest]")
    pytester.mkdir("inner")
    pytester.makepyfile(parity_here="from parity_faults import right", test_places=PLACES)
    monkeypatch.chdir("inner")
    plugin = ("-p", "parity.pytest_plugin", "-p", "no:cacheprovider")
    ran = pytester.runpytest_subprocess(*plugin, "--import-mode=importlib", "--collect-only", "-q", "..")
    ran.stdout.fnmatch_lines(["*test_x[[]parity_here.right,b=5]", "*test_x[[]test_places.head,b=5]", "*test_y"])


def test_a_form_that_this_version_lacks_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(pytest_report._FORMS, ".html", "no_such_form")
    with pytest.raises(BadInput, match=r"this version writes no \.html; take \.json or \.xml"):
        pytest_report.writer(tmp_path / "report.html")


IMPORTED = """
import sys
def test_x(): pass
def pytest_sessionfinish(): print("loaded", sorted({"numpy", "torch", "jax", "typer", "rich"} & set(sys.modules)))
"""


@pytest.mark.parametrize(("line", "loaded"), [("", ""), ("import numpy", "'numpy'")], ids=["as it is", "planted"])
def test_a_run_that_does_not_use_it_loads_nothing(run, pytester, line, loaded):
    pytester.makeconftest(f"{line}\n{IMPORTED}")
    ran = run("def test_x(): pass")
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines([f"*loaded [[]{loaded}]"])


def test_named_twice_or_installed_as_well_it_is_there_once(pytester, monkeypatch):
    installed = pytester.mkdir("installed")
    metadata = installed / "made_up-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Name: made-up\nVersion: 1.0\n")
    metadata.joinpath("entry_points.txt").write_text("[pytest11]\nparity = parity.pytest_entry\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, installed))))
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile("def test_x(parity_case): pass")
    words = ["*takes parity_case; mark it*"]
    pytester.runpytest_subprocess().stdout.fnmatch_lines(words)  # by its entry point alone
    pytester.makeconftest('pytest_plugins = ["parity.pytest_plugin"]')
    twice = ["-p", "parity.pytest_plugin"] * 2
    pytester.runpytest_subprocess(*twice).stdout.fnmatch_lines(words)


def test_the_entry_point_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"parity": "parity.pytest_entry"}
