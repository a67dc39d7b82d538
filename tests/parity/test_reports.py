"""Reports: JSON to its schema, JUnit well-formed whatever the words, and one exit code for a run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
from safetensors.numpy import load_file

import parity
from parity.attention import Attention
from parity.compare import Verdict
from parity.report import json as json_report
from parity.report import junit, tensors, terminal
from parity.results import STATUSES, CaseResult, Report

SCHEMA = json.loads((Path(parity.__file__).parent.parent / "docs" / "report.schema.json").read_text())
HOSTILE = "a<b>&\"'\x00\x1b[31m\ud800\uffff ]]> [bold]\n\tü\U0001f600"


def verdict(**fields):
    fields = {"bound_ratio": 0.5, "worst_index": (0, 1), "candidate": 1.0, "truth": 1.0, "bound": 1e-6} | fields
    return Verdict(**({"quantity": "output", "status": "passed"} | fields))


def result(status="passed", name="S1", **fields):
    fields = {"reason": "" if status == "passed" else "because", "verdicts": (verdict(status=status),)} | fields
    known = {"seed": 0, "dtype": "float32", "implementation": "auto", "device": "cpu"}
    sides = {"reference": "a:B", "candidate": "c:D", "command": f"parity run --case {name}"}
    return CaseResult(name=name, status=status, **(known | sides | fields))


def report(*statuses, **fields):
    return Report({"python": "3.11"}, tuple(result(status, f"S1,i={n}") for n, status in enumerate(statuses)), **fields)


def strictly(text):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def written(found, tmp_path):
    json_report.write(found, tmp_path / "report.json")
    return strictly((tmp_path / "report.json").read_text())


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_json_follows_its_schema(tmp_path):
    document = written(report(*STATUSES, seconds=1.5), tmp_path)
    jsonschema.validate(document, SCHEMA)
    assert document["summary"] == {"passed": 1, "failed": 1, "skipped": 1, "inconclusive": 1, "errors": 1}
    assert [case["status"] for case in document["cases"]] == list(STATUSES)
    assert document["exit_code"] == 3


@pytest.mark.parametrize(
    "path", [("cases", 0, "status"), ("summary",), ("schema",), ("cases", 0, "quantities", 0, "bound_ratio")]
)
def test_the_schema_notices_what_is_missing_or_wrong(tmp_path, path):
    document = written(report("passed"), tmp_path)
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    for change in (lambda: place.pop(last), lambda: place.__setitem__(last, "no such thing")):
        change()
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, SCHEMA)


def test_numbers_that_json_lacks_are_strings(tmp_path):
    odd = verdict(status="failed", max_error=math.inf, bound_ratio=math.inf, candidate=math.nan, truth=-math.inf)
    document = written(Report({}, (result("failed", verdicts=(odd,)),)), tmp_path)
    jsonschema.validate(document, SCHEMA)
    (quantity,) = document["cases"][0]["quantities"]
    assert (quantity["max_error"], quantity["bound_ratio"]) == ("Infinity", "Infinity")
    assert (quantity["candidate"], quantity["truth"]) == ("NaN", "-Infinity")
    assert quantity["reference"] is None


def test_hostile_words_survive_json(tmp_path):
    document = written(Report({"a": HOSTILE}, (result("failed", reason=HOSTILE, cause=HOSTILE),)), tmp_path)
    assert document["cases"][0]["reason"] == HOSTILE
    jsonschema.validate(document, SCHEMA)


def test_junit_is_well_formed_whatever_the_words(tmp_path):
    results = [result(s, reason=HOSTILE, cause=HOSTILE, candidate=HOSTILE, command=HOSTILE) for s in STATUSES]
    junit.write(Report({HOSTILE: HOSTILE}, tuple(results), 1.0), tmp_path / "junit.xml")
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "2", "errors": "1", "skipped": "1",
    }  # fmt: skip
    tags = [[(child.tag, child.get("type")) for child in case] for case in suite.iter("testcase")]
    assert tags == [
        [], [("failure", "failed")], [("skipped", "skipped")], [("failure", "inconclusive")], [("error", "error")],
    ]  # fmt: skip
    assert "ü" in suite.find("testcase/failure").text


def test_a_passed_case_is_no_failure_in_junit(tmp_path):
    junit.write(report("passed"), tmp_path / "junit.xml")
    (case,) = ET.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    assert (case.get("name"), list(case)) == ("S1,i=0", [])


def test_junit_holds_the_notes(tmp_path):
    junit.write(Report({}, (result(notes=(f"differs on purpose: {HOSTILE}", "another")),)), tmp_path / "junit.xml")
    (case,) = ET.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    words = case.find("system-out").text
    assert words.startswith("differs on purpose: a<b>&")
    assert words.endswith("another")


def expected_exit(statuses, interrupted, empty_shard):
    """DESIGN 5: 130 interrupted; 3 an error; 1 a mismatch; 4 nothing compared or something inconclusive; 0."""
    if interrupted:
        return 130
    for status, code in (("error", 3), ("failed", 1), ("inconclusive", 4)):
        if status in statuses:
            return code
    return 0 if "passed" in statuses or (not statuses and empty_shard) else 4


@pytest.mark.parametrize("interrupted", [False, True])
def test_exit_codes_by_precedence(interrupted):
    for n in range(len(STATUSES) + 1):
        for statuses in itertools.combinations(STATUSES, n):
            for order in (statuses, statuses[::-1]):
                found = report(*order, interrupted=interrupted)
                assert found.exit_code == expected_exit(statuses, interrupted, False), order


def test_an_empty_shard_is_0_and_an_empty_run_is_not():
    assert report(empty_shard=True).exit_code == 0
    assert report().exit_code == 4
    assert report("skipped").exit_code == 4
    assert report("skipped", "passed").exit_code == 0


def test_the_verdict_that_decides_is_of_the_worst_status():
    near = verdict(quantity="dquery", status="passed", bound_ratio=0.9)
    far = verdict(quantity="dkey", status="failed", bound_ratio=3.0)
    farther = verdict(quantity="dvalue", status="failed", bound_ratio=7.0)
    assert result("failed", verdicts=(near, far, farther)).worst == farther
    assert result(verdicts=(near, verdict())).worst == near
    assert result("skipped", verdicts=()).worst is None


def test_words_on_a_terminal_are_no_markup():
    found = result("failed", reason="[bold]x[/]", cause="[/red] 1 of [2]", verdicts=())
    from rich.console import Console

    console = Console(record=True, width=500, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        terminal.print_report(console, Report({}, (found,)), quiet=False)
        text = console.export_text()
    assert "[bold]x[/]" in text
    assert "likely cause: [/red] 1 of [2]" in text
    assert found.command in text


def test_only_failed_cases_are_saved(tmp_path):
    found = report("passed", "failed", "skipped", "error")
    made = [dataclasses.replace(r, case=Attention.parse(r.name).case()) for r in found.results]
    tensors.write(dataclasses.replace(found, results=tuple(made)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["S1,i=1.safetensors"]
    assert set(load_file(tmp_path / "S1,i=1.safetensors")) == {"query", "key", "value", "cotangent_output"}
