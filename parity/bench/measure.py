"""The only file that knows the order: which contender is asked what, when.

All contenders of a row and mode are compiled, warmed up and inspected first. Then, round by round, each gives one timed
sample, in an order that is shuffled anew: what disturbs the machine for a while disturbs all of them. Only one process
works at a time; the other sleeps on its pipe.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import random
import time
from collections.abc import Callable, Sequence

from parity.bench.accuracy import Truth
from parity.bench.messages import Contender, Inspect, Inspected, Task, Time, Timed
from parity.bench.process import Host
from parity.bench.results import OURS, Measurement, Race
from parity.bench.rows import BOTH, Row
from parity.errors import BadInput

# Who is asked for its memory where nothing is timed.
_FOR_MEMORY = (BOTH, OURS)
# Threads of a pool spin for a while after their work; the next contender should not pay for that.
_SETTLE = 0.005


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides a run. `limit`: seconds that a contender may take for a row in a mode."""

    rows: Sequence[Row]
    modes: Sequence[str]
    contender: str | None = None
    repeats: int = 7
    limit: float = 60.0
    seed: int = 0


def entrants(plan: Plan, hosts: Sequence[Host], device: str) -> list[tuple[Contender, Host]]:
    """Those on this device that were asked for.

    Raises:
      BadInput: nobody is.
    """
    there = [(c, host) for host in hosts for c in host.hello.contenders if device in c.devices]
    globs = (plan.contender or "*").split(",")
    found = [(c, host) for c, host in there if any(fnmatch.fnmatchcase(c.name, glob) for glob in globs)]
    if not found:
        names = ", ".join(contender.name for contender, _ in there)
        raise BadInput(f"--contender {plan.contender!r} matches nobody; on {device} there are {names}")
    return found


def measure(
    plan: Plan, hosts: Sequence[Host], device: str, listener: Callable[[Race], None], say: Callable[[str], None]
) -> None:
    """Run the plan; `listener` gets each race when it is over, or as far as it got when interrupted, and `say` what is
    being done."""
    taking_part = entrants(plan, hosts, device)
    order = random.Random(plan.seed)
    for row in plan.rows:
        truth = Truth.of(row.attention, plan.seed) if row.timed else None
        for mode in plan.modes:
            heat = [
                Runner(c, host, row, mode, plan)
                for c, host in taking_part
                if row.timed or (mode, c.name) == _FOR_MEMORY
            ]
            try:
                for runner in heat:
                    say(f"{row.name} {mode}: compiling {runner.measurement.contender}")
                    runner.inspect(truth)
                for n in range(plan.repeats if row.timed else 0):
                    say(f"{row.name} {mode}: round {n + 1} of {plan.repeats}")
                    for runner in order.sample(heat, len(heat)):
                        runner.sample()
            finally:
                if heat:
                    listener(Race(row, mode, tuple(runner.measurement for runner in heat)))


class Runner:
    """One contender on one row in one mode, and what is known of it so far."""

    def __init__(self, contender: Contender, host: Host, row: Row, mode: str, plan: Plan) -> None:
        self._host, self._limit, self._mode = host, plan.limit, mode
        self._task = Task(row.attention, mode, contender.name, plan.seed)
        self._left = plan.limit
        complete = contender.bias_gradient or not row.has_bias or mode != BOTH
        self.measurement = Measurement(contender.name, "skipped", "not reached", counts=contender.peer and complete)

    def inspect(self, truth: Truth | None) -> None:
        """Compile, warm up; memory and error."""
        answer = self._ask(Inspect(self._task) if truth is None else Inspect(self._task, truth.heads, truth.queries))
        if isinstance(answer, Inspected):
            errors = truth.errors(answer.results, self._mode) if truth is not None else ()
            self._set(
                status="inspected", words="", memory=answer.memory, memory_by=answer.memory_by, errors=errors,
                runs=answer.runs, note=answer.note,
            )  # fmt: skip
        # Compiling is not what the limit is for, unless it takes all of it.
        self._left = self._limit

    def sample(self) -> None:
        """One timed sample, if it has one to give and time left for it."""
        if self.measurement.status not in ("inspected", "timed"):
            return
        if self._left <= 0:
            self._set(samples=(*self.measurement.samples, None), words=f"stopped after {self._limit:g} s")
            return
        answer = self._ask(Time(self._task))
        if isinstance(answer, Timed):
            self._set(status="timed", samples=(*self.measurement.samples, answer.seconds), calls=answer.calls)

    def _ask(self, question: Inspect | Time) -> Inspected | Timed | None:
        time.sleep(_SETTLE)
        start = time.perf_counter()
        answer = self._host.ask(question, self._limit)
        self._left -= time.perf_counter() - start
        if isinstance(answer, Inspected | Timed):
            return answer
        self._set(status=answer.status, words=answer.words)
        return None

    def _set(self, **changes: object) -> None:
        self.measurement = dataclasses.replace(self.measurement, **changes)  # type: ignore[arg-type]
