"""The pytest plugin's part that judges: the processes of all tests in this process of pytest, and what was found."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import pytest

from parity import checks
from parity.errors import BadInput
from parity.pipeline import Plan
from parity.results import CaseResult, Report
from parity.sessions import Sessions


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A plan of one case."""

    plan: Plan

    @property
    def name(self) -> str:
        return self.plan.cases[0].name


class ParityCase:
    """A case that has been judged. With several implementations it holds a result for each."""

    def __init__(self, name: str, report: Report) -> None:
        self.name, self._report = name, report
        self.seen = False

    @property
    def report(self) -> Report:
        """What was found; who looks at it judges for himself."""
        self.seen = True
        return self._report

    @property
    def is_error(self) -> bool:
        """Whether a worker died, or parity itself is at fault."""
        return bool(self._report.counts["error"])

    def check(self) -> None:
        """Raise AssertionError unless it passed; one that was skipped skips the test.

        Raises:
          AssertionError: it failed or is inconclusive, in the words of `parity.assert_parity`.
        """
        __tracebackhide__ = True
        fault = self.fault()
        if fault:
            raise AssertionError(fault)

    def fault(self) -> str:
        """What `check` would raise, or nothing."""
        __tracebackhide__ = True
        self.seen = True
        results = self._report.results
        if all(result.status == "skipped" for result in results):
            pytest.skip("; ".join(dict.fromkeys(result.reason for result in results)))
        return checks.explain(self._report) if self._report.exit_code else ""


class Judge:
    """Runs cases, and keeps what was found until it is taken."""

    def __init__(self) -> None:
        self._sessions = Sessions(keep=2)
        self._found: list[CaseResult] = []

    def judged(self, wanted: Wanted) -> ParityCase:
        return ParityCase(wanted.name, self._run([wanted.plan]))

    def assert_parity(self, what: checks.Pairs | Report, **options: Unpack[checks.Options]) -> Report:
        """`parity.assert_parity`, with processes that other tests share."""
        __tracebackhide__ = True
        if isinstance(what, Report):
            self._found += what.results
            return checks.assert_parity(what, **options)
        return checks.assert_parity(self._run(checks.pair_plans(what, **options)))

    def take(self) -> Report:
        """What was found since it was last taken."""
        found, self._found = self._found, []
        return self._sessions.report(found)

    def close(self) -> None:
        self._sessions.close()

    def _run(self, plans: Sequence[Plan]) -> Report:
        found = [result for plan in plans for result in self._sessions.run(plan)]
        self._found += found
        return self._sessions.report(found)


def wanted(root: Path, *arguments: Any, **options: Any) -> list[Wanted]:
    """The cases of a marker; a path may be given from the current folder or from pytest's root.

    Raises:
      BadInput: there are none, in words.
    """
    make: Callable[..., Sequence[Plan]] = checks.pair_plans if "pairs" in options else checks.attention_plans
    known = list(inspect.signature(make).parameters)
    unknown = [str(argument) for argument in arguments] + [name for name in options if name not in known]
    if unknown:
        raise BadInput(f"it takes the keywords {', '.join(known)}; got {', '.join(unknown)}")
    plans = make(**(options | {"pairs": _from(root, options["pairs"])} if "pairs" in options else options))
    return [Wanted(dataclasses.replace(plan, cases=[case])) for plan in plans for case in plan.cases]


def _from(root: Path, pairs: Any) -> Any:
    if isinstance(pairs, list | tuple):
        return [_from(root, pair) for pair in pairs]
    if not isinstance(pairs, str | Path):
        return pairs
    place, colon, name = str(pairs).rpartition(":") if ":" in str(pairs) else (str(pairs), "", "")
    if not Path(place).exists() and (root / place).exists():
        place = os.path.relpath(root / place)
    return f"{place}{colon}{name}"
