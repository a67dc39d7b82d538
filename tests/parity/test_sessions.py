"""`Sessions`: processes are kept for the next case, and no longer than they may be needed. No process is started."""

from __future__ import annotations

import pytest

from parity import sessions
from parity.cases import Case
from parity.errors import BadInput
from parity.pipeline import Plan

log: list[str]


class Planned:
    """In place of a session: it writes down what is done with it."""

    environment, peak_mib = {"side": "planned"}, 7

    def __init__(self, plan):
        if plan.candidate == "refused":
            log.append("refuse")
            raise BadInput("cannot start")
        self.name = plan.candidate
        log.append(f"start {self.name}")

    def run(self, cases, listener):
        for case in cases:
            if case.name == "interrupted":
                raise KeyboardInterrupt
            listener(case.name)

    def close(self):
        log.append(f"end {self.name}")


@pytest.fixture(autouse=True)
def planned(monkeypatch):
    global log
    log = []
    monkeypatch.setattr(Plan, "session", lambda plan: Planned(plan))


def plan(candidate, *names):
    return Plan([Case(name, (), {}) for name in names], "reference", candidate)


def test_the_cases_of_a_plan_share_its_processes():
    with sessions.Sessions() as kept:
        assert kept.run(plan("a", "one", "two")) == ["one", "two"]
        assert kept.run(plan("a", "three")) == ["three"]
        assert log == ["start a"]
        assert kept.environment["side"] == "planned"
    assert log == ["start a", "end a"]


def test_what_was_used_longest_ago_is_ended_first():
    with sessions.Sessions(keep=2) as kept:
        for name in ("a", "b", "a", "c"):
            kept.run(plan(name, "one"))
        assert log == ["start a", "start b", "end b", "start c"]


def test_what_cannot_start_is_not_tried_again():
    with sessions.Sessions() as kept:
        for _ in range(2):
            with pytest.raises(BadInput, match="cannot start"):
                kept.run(plan("refused", "one"))
    assert log == ["refuse"]


def test_what_was_interrupted_is_not_used_again():
    with sessions.Sessions() as kept:
        with pytest.raises(KeyboardInterrupt):
            kept.run(plan("a", "one", "interrupted"))
        assert log == ["start a", "end a"]
