"""Results that come a few at a time: judged as if they had come at once, and let go of; none is lost with its side."""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import time
from multiprocessing import get_context

import numpy as np
import pytest

from parity.cases import Case, TensorSpec
from parity.channel import Channel
from parity.compare import Verdict
from parity.messages import GO_ON, Outcome
from parity.pairs.gradients import Arriving, to_torch
from parity.pairs.handover import TOGETHER, hand_over
from parity.pairs.judge import Judging, judge
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, UNCERTAIN
from parity.pipeline import Plan, Session
from parity.process import Side, wait_for


def large(value):
    return np.full(TOGETHER // 4, value, np.float32)


# --- a worker hands over -------------------------------------------------------------------------------------------


def test_each_waits_until_the_one_before_is_taken_and_is_then_let_go_of():
    here, there = map(Channel, get_context("spawn").Pipe())
    arrays = {f"{word}{name}": large(n) for word in (REFERENCE, TRUTH) for n, name in enumerate("abc")}
    sender = threading.Thread(target=hand_over, args=(there, Outcome(5, notes=("a note",)), arrays))
    sender.start()
    for number, name in enumerate("abc"):
        outcome = here.recv()
        assert (outcome.key, outcome.more, outcome.notes) == (5, True, ())
        assert list(outcome.arrays) == [REFERENCE + name, TRUTH + name]
        assert outcome.arrays[TRUTH + name][0] == number
        assert not here.poll(0.2)
        assert list(arrays)[:1] == ([f"{REFERENCE}{'abc'[number + 1]}"] if number < 2 else [])
        here.send(GO_ON)
    assert here.recv() == Outcome(5, notes=("a note",))
    sender.join()
    here.close()
    there.close()


def test_what_is_small_comes_at_once():
    here, there = map(Channel, get_context("spawn").Pipe())
    hand_over(there, Outcome(5), {str(n): np.ones(n) for n in range(100)})
    outcome = here.recv()
    assert (len(outcome.arrays), outcome.more) == (100, False)
    here.close()
    there.close()


# --- a case is judged ----------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)
NAMES = ["output", "output.ids", "dx", "d(w)", "d(missing)"]


def reference():
    """A quantity of each kind; torch's side has one that the other lacks."""
    found = {}
    for name in NAMES:
        truth = RANDOM.standard_normal(50)
        if name == "output.ids":
            found |= {REFERENCE + name: np.arange(50), TRUTH + name: np.arange(50), UNCERTAIN + name: truth > 1}
        else:
            spread = np.full(50, 1e-6, np.float32)
            found |= {REFERENCE + name: truth.astype(np.float32), TRUTH + name: truth, SPREAD + name: spread}
    return found


def candidate(theirs):
    found = {name: theirs[REFERENCE + name].copy() for name in NAMES[:-1]} | {"extra": np.ones(3)}
    found["dx"][7] += 1e-3
    return found


def test_verdicts_do_not_depend_on_what_comes_when():
    theirs = reference()
    found = candidate(theirs)
    expected = judge(theirs, found)
    assert [(v.quantity, v.status) for v in expected] == [
        ("outputs", "failed"), ("output.ids", "passed"), ("output", "passed"), ("dx", "failed"), ("d(w)", "passed"),
        ("d(missing)", "failed"),
    ]  # fmt: skip
    for seed in range(20):
        parts = [("candidate", {name: array}) for name, array in found.items()]
        random.Random(seed).shuffle(parts)
        words = REFERENCE, TRUTH, SPREAD, UNCERTAIN
        of_torch = [{w + n: theirs[w + n] for w in words if w + n in theirs} for n in NAMES]
        for part in of_torch:  # torch's order stays, and is the verdicts'
            parts.insert(random.Random(seed).randrange(len(parts) + 1), ("reference", part))
        in_order = iter(of_torch)
        judging = Judging()
        for side, part in parts:
            getattr(judging, side)(next(in_order) if side == "reference" else part)
        assert judging._found.keys() == {"extra"}
        assert judging._expected.keys() == {"d(missing)"}
        assert [shown(verdict) for verdict in judging.verdicts()] == [shown(verdict) for verdict in expected]


def shown(verdict: Verdict):
    return dataclasses.replace(verdict, picture=None)


def test_gradients_are_in_torchs_names_as_soon_as_they_can_be():
    """The encoder's attention has one packed weight for three of Flax's."""
    from parity.pairs.load import load
    from parity.weights import flax_side, plan, torch_side

    pair = load("examples/parity_blocks.py:encoder")
    flax = pair.flax()
    found = plan(torch_side.describe(pair.torch()), flax_side.describe(flax), [])
    given = {
        path: RANDOM.standard_normal(array.shape).astype(array.dtype) for path, array in flax_side.arrays(flax).items()
    }
    whole = {f"d({path})": array for path, array in to_torch(found, given, "float32").items()}
    for seed in range(5):
        paths = list(given)
        random.Random(seed).shuffle(paths)
        arriving, said = Arriving(found, "float32"), {}
        for path in paths[:-1]:
            said |= arriving.come({f"d({path})": given[path]})
        assert all(np.array_equal(array, whole[name]) for name, array in said.items())
        lacking = to_torch(found, {path: given[path] for path in paths[:-1]}, "float32")
        said |= arriving.rest()
        assert said.keys() == {f"d({path})" for path in lacking}
        # One that is packed is not handed out with a part of it missing.
        assert len(whole) == len(said) + 1
        assert all(np.array_equal(array, whole[name]) for name, array in said.items())
    arriving = Arriving(found, "float32")
    said = {name: array for path in given for name, array in arriving.come({f"d({path})": given[path]}).items()}
    assert said.keys() == whole.keys()
    assert all(np.array_equal(said[path], whole[path]) for path in whole)
    assert arriving.come({"output": given[paths[0]]}).keys() == {"output"}
    assert not arriving.rest()


# --- a session -----------------------------------------------------------------------------------------------------


def worker(connection, spec, options):
    """Two large arrays a case; of a case that is called so, the second never comes."""
    del options
    connection.send(Hello())
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        if spec == "reference":  # the slower one, as a rule
            time.sleep(0.3)
        connection.send(Outcome(job.key, {"one": large(job.key)}, more=True))
        connection.recv()
        if job.name == f"{spec} dies":
            os._exit(7)
        if job.name == f"{spec} hangs":
            time.sleep(60)
        connection.send(Outcome(job.key, {"two": large(job.key)}))


@dataclasses.dataclass(frozen=True)
class Hello:
    environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Named:
    key: int
    name: str


class Cases(Plan):
    def command(self, *_):
        return ""


class Streams(Session):
    worker = staticmethod(worker)

    def _skips(self, *_):
        return None

    def _job(self, key, slot, _):
        slot.arrays = {}
        return Named(key, slot.case.name)

    def _taken(self, slot, label, outcome):
        self.events.append((slot.case.name, label, *outcome.arrays))
        slot.judging = (slot.judging or 0) + sum(float(array[0]) for array in outcome.arrays.values())
        return dataclasses.replace(outcome, arrays={})

    def _verdicts(self, slot, *_):
        return [Verdict("sum", "passed", str(slot.judging))]


@pytest.fixture
def session():
    with_sides = []

    def make(names, timeout):
        cases = [Case(name, (TensorSpec("x", (1,), "float32"),), {}) for name in names]
        found = Streams(Cases(cases, "reference", "candidate", timeout=timeout))
        found.events = []
        with_sides.append(found)
        return found

    yield make
    for one in with_sides:
        one.close()


def test_a_side_that_is_lost_in_the_middle_costs_its_case_only(session):
    names = ["first", "candidate dies", "third", "reference hangs", "last"]
    one, results = session(names, 3.0), []
    assert one.run(one.plan.cases, results.append)
    assert [(result.name, result.status, result.reason) for result in results] == [
        ("first", "passed", ""),
        ("candidate dies", "error", "candidate: the worker died (exit code 7)"),
        ("third", "passed", ""),
        ("reference hangs", "error", "reference: no answer in 3 s"),
        ("last", "passed", ""),
    ]
    assert [float(results[n].verdicts[0].reason) for n in (0, 2, 4)] == [0, 4 * 2, 4 * 4]  # nothing of another case's


def test_who_is_ahead_waits_with_what_is_large(session):
    one = session(["first", "second"], 30.0)
    one.run(one.plan.cases, lambda result: None)
    ends = [event for event in one.events if event[2] == "two"]
    assert [name for name, *_ in ends] == ["first", "first", "second", "second"]


def test_the_time_of_the_judge_is_not_the_workers():
    side = Side("candidate", None, label="candidate", timeout=1.0, main=worker)
    try:
        side.hello()
        side.submit(Named(3, "late"))
        assert answer(side).more
        time.sleep(1.5)
        assert side.poll() is None
        side.go_on()
        last = answer(side)
        assert (last.lost, list(last.arrays)) == (None, ["two"])
    finally:
        side.close()


def answer(side):
    while True:
        wait_for([side], 0.5)
        if (found := side.poll()) is not None:
            return found
