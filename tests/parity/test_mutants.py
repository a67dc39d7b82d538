"""The catalogue that judges the judge: what stands in it, and that a hole in either direction is reported."""

from __future__ import annotations

import concurrent.futures
import json
import math

import pytest

from parity import mutants, mutate, suites
from parity.mutants import CATALOGUE, HONEST, WRONG, Mutant
from parity.mutate import judge_case


def test_there_are_enough_and_their_names_are_unique():
    assert len(WRONG) >= 40
    assert len(HONEST) >= 6
    assert len(CATALOGUE) == len(WRONG) + len(HONEST)
    assert all(mutant.honest for mutant in HONEST)
    assert not any(mutant.honest for mutant in WRONG)


@pytest.mark.parametrize("mutant", CATALOGUE.values(), ids=CATALOGUE)
def test_each_is_a_class_of_its_own_and_says_what_it_does(mutant):
    assert mutant.name.isidentifier()
    assert len(mutant.mistake.split()) > 1
    assert mutant.family
    assert getattr(mutants, mutant.name).__name__ == mutant.name
    assert all(callable(getattr(mutants.Port, step, None)) for step in mutant.steps), "a step that Port does not have"
    assert mutant.honest or mutant.steps


def test_every_family_of_mistakes_is_there():
    families = {mutant.family for mutant in WRONG}
    assert {"masks", "bias", "scale", "softmax", "precision", "dropout", "gradients", "layout", "corners"} <= families


def smoke():
    return [attention.case() for attention in suites.suite("smoke")]


@pytest.fixture(scope="module")
def findings():
    """Every honest port, and a sample of the wrong ones, on every case of smoke."""
    wrong = [mutant.name for mutant in WRONG[::6]]
    ports = [mutant.name for mutant in HONEST] + wrong
    return wrong, [finding for case in smoke() for finding in judge_case(case, ports, 0)]


@pytest.mark.parametrize("mutant", HONEST, ids=[mutant.name for mutant in HONEST])
def test_every_honest_port_passes_smoke(findings, mutant):
    mine = [finding for finding in findings[1] if finding.port == mutant.name]
    assert len(mine) == len(smoke())
    assert [finding for finding in mine if finding.failed] == []
    assert max(finding.ratio for finding in mine) <= 1


def test_wrong_ports_fail_smoke_unless_only_a_corner_shows_them(findings):
    wrong, found = findings
    caught = {finding.port for finding in found if finding.failed}
    families = {name: CATALOGUE[name].family for name in wrong}
    missed = {name for name in set(wrong) - caught if families[name] not in ("corners", "dropout", "scale")}
    assert len(caught & set(wrong)) > len(wrong) / 2
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("name", ["causal_upper_left", "bias_nearly", "tf32", "dropout_shared_by_heads", "one_nan"])
def test_a_wrong_port_fails_by_more_than_the_bound(name):
    found = [finding for case in smoke() for finding in judge_case(case, [name], 0) if finding.failed]
    assert found
    assert all(finding.ratio > 1 for finding in found)


@pytest.fixture
def in_this_process(monkeypatch):
    """`parity mutate` without its processes, so that a planted port is seen."""
    pool = concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", lambda *_, **__: pool(1))


def plant(monkeypatch, mutant):
    monkeypatch.setitem(CATALOGUE, mutant.name, mutant)


@pytest.mark.usefixtures("in_this_process")
def test_an_equivalent_port_survives_and_is_1(cli, monkeypatch, tmp_path):
    plant(monkeypatch, Mutant("planted", "none", "does nothing wrong", {}))
    path = tmp_path / "matrix.json"
    ran = cli("mutate", "--suite", "smoke", "--mutant", "planted", "--json", str(path))
    assert ran.code == 1
    assert "SURVIVED planted: does nothing wrong" in ran.words
    assert "0 of 1 caught by smoke" in ran.words
    document = json.loads(path.read_text())
    assert document["summary"] == {"wrong": 1, "caught": 0, "honest": 0, "rejected": 0}
    assert document["ports"][0]["caught"] is False


@pytest.mark.usefixtures("in_this_process")
def test_a_rejected_honest_port_is_1(cli, monkeypatch):
    steps = {"contract": lambda self, weights, v: weights @ v * math.pi}
    plant(monkeypatch, Mutant("planted", "none", "claims to be honest", steps, honest=True))
    ran = cli("mutate", "--suite", "smoke", "--mutant", "planted")
    assert ran.code == 1
    assert "REJECTED honest planted in " in ran.words
    assert "honest ports: 1 of 1 rejected" in ran.words


def test_mutate_runs_its_processes_and_is_0(cli):
    ran = cli("mutate", "--suite", "smoke", "--mutant", "scale_m*")
    assert ran.code == 0
    assert "1 of 1 caught by smoke (100 %), 1 by smoke" in ran.words


def test_an_unknown_port_is_2_in_words(cli):
    ran = cli("mutate", "--suite", "smoke", "--mutant", "no-such-*")
    assert ran.code == 2
    assert "--mutant 'no-such-*' matches no port" in ran.words


def test_the_parent_process_knows_ports_without_their_code():
    assert {port.name for port in mutate.catalogue()} == set(CATALOGUE)
