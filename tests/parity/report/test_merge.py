"""Shards brought together: one report, one exit code, and nothing that is missing or twice goes unsaid."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest

from parity.errors import BadInput
from parity.report import json as json_report
from parity.report.merge import differences, merge, missing_shards
from tests.parity.report.samples import report
from tests.parity.report.test_read import SCHEMA


def shard(i, n, *statuses, **environment):
    found = report(*statuses, start=100 * i, seconds=2.0, peak_mib=100 * i, empty_shard=not statuses)
    return dataclasses.replace(found, environment={**found.environment, "shard": f"{i}/{n}", **environment})


def merged(*shards):
    return merge({f"{n}.json": found for n, found in enumerate(shards, 1)})


def test_all_cases_in_order_seconds_added_and_the_most_memory():
    whole = merged(shard(1, 2, "passed", "skipped"), shard(2, 2, "passed"))
    assert [r.name for r in whole.results] == ["S1,i=100", "S1,i=101", "S1,i=200"]
    assert (whole.seconds, whole.peak_mib, whole.exit_code) == (4.0, 200, 0)


@pytest.mark.parametrize(
    ("others", "code"),
    [(["passed"], 0), ([], 0), (["skipped"], 0), (["failed"], 1), (["inconclusive"], 4), (["error"], 3)],
)
def test_the_exit_code_is_that_of_the_whole(others, code):
    assert merged(shard(1, 2, "passed"), shard(2, 2, *others)).exit_code == code


def test_empty_shards_alone_are_0_and_skipped_alone_4():
    assert merged(shard(1, 2), shard(2, 2)).exit_code == 0
    assert merged(shard(1, 2), shard(2, 2, "skipped")).exit_code == 4


def test_one_interrupted_shard_interrupts_the_whole():
    assert merged(shard(1, 2, "passed"), dataclasses.replace(shard(2, 2, "passed"), interrupted=True)).exit_code == 130


def test_a_missing_shard_is_named_and_never_passes():
    parts = {"a": shard(1, 4, "passed"), "b": shard(3, 4, "passed")}
    assert missing_shards(parts) == ["2/4", "4/4"]
    half = merge(parts)
    assert half.exit_code == 130
    assert missing_shards({"half": half, "rest": merge({"c": shard(2, 4), "d": shard(4, 4)})}) == []
    assert missing_shards({"a": report("passed"), "b": report("passed", start=9)}) == []


def test_shards_of_different_runs_are_refused():
    with pytest.raises(BadInput, match=r"different numbers of shards: 1\.json is 1/2, 2\.json is 2/3"):
        merged(shard(1, 2, "passed"), shard(2, 3, "passed"))


def test_a_case_in_two_reports_is_refused():
    with pytest.raises(BadInput, match=r"case S1,i=100 .* is in both 1\.json and 2\.json"):
        merged(shard(1, 2, "passed"), shard(1, 2, "failed"))


def test_another_implementation_of_a_case_is_another_case():
    one = report("passed")
    other = dataclasses.replace(one, results=(dataclasses.replace(one.results[0], implementation="blockwise"),))
    assert len(merged(one, other).results) == 2


def test_environments_that_differ_are_said():
    parts = {"a": shard(1, 3, "passed", jax="0.10"), "b": shard(2, 3, "passed", jax="0.11"), "c": shard(3, 3)}
    assert differences(parts) == ["jax: 0.10 in a; 0.11 in b"]
    assert merge(parts).environment["jax"] == "0.10 | 0.11"


def test_the_command(cli, tmp_path):
    for i, statuses in ((1, ["passed"]), (2, ["failed"])):
        json_report.write(shard(i, 2, *statuses, cpus=str(i)), tmp_path / f"{i}.json")
    out = [f"--{kind}={tmp_path / 'all.'}{kind}" for kind in ("json", "junit", "html", "markdown")]
    ran = cli("merge", str(tmp_path / "1.json"), str(tmp_path / "2.json"), *out)
    assert ran.code == 1
    assert "1 passed, 1 failed in 4.0 s" in ran.words
    assert "the environments differ: cpus: 1 in" in ran.words
    assert "likely cause: causal is aligned to the other corner" in ran.words
    document = json.loads((tmp_path / "all.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert (document["exit_code"], len(document["cases"])) == (1, 2)
    assert "<h1>Mismatch</h1>" in (tmp_path / "all.html").read_text()
    assert (tmp_path / "all.markdown").read_text().startswith("**parity: Mismatch**")
    assert (tmp_path / "all.junit").exists()


def test_the_command_without_a_shard(cli, tmp_path):
    json_report.write(shard(1, 2, "passed"), tmp_path / "1.json")
    ran = cli("merge", str(tmp_path / "1.json"))
    assert ran.code == 130
    assert "shard 2/2 is missing" in ran.words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{0}/1.json", "{0}/1.json"], "given twice"),
        (["{0}/1.json", "{0}/no.json"], "no.json cannot be read"),
        (["{0}/1.json", "--html", "{0}/no/x.html"], "--html: there is no folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_2_and_says_what(cli, tmp_path, arguments, words):
    json_report.write(shard(1, 1, "passed"), tmp_path / "1.json")
    ran = cli("merge", *(argument.format(tmp_path) for argument in arguments))
    assert ran.code == 2
    assert words in ran.words
