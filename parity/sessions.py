"""Plans run one after the other, or case by case, with their processes kept as long as they may be needed again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from parity.environment import machine
from parity.errors import BadInput
from parity.pairs.session import PairPlan
from parity.pipeline import Plan, Session
from parity.results import CaseResult, Report


class Sessions:
    """A plan's two processes are started for its first case and ended when `keep` other plans have been run since.

    To be closed; as a context manager it does so itself.
    """

    def __init__(self, keep: int = 1) -> None:
        self.environment = machine()
        self.peak_mib = 0
        self._keep, self._start = keep, time.monotonic()
        self._open: dict[Plan, Session] = {}  # the one used last stands last
        self._refused: dict[Plan, BadInput] = {}

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, plan: Plan) -> list[CaseResult]:
        """Run the cases of a plan.

        Raises:
          BadInput: a side cannot start. The modules of a pair that cannot be made fail its cases instead.
        """
        found: list[CaseResult] = []
        try:
            session = self._session(plan)
            try:
                session.run(plan.cases, found.append)
            except BaseException:  # jobs may be under way: it is no use to anyone else
                self._end(_key(plan))
                raise
        except BadInput as error:
            if not isinstance(plan, PairPlan):
                raise
            return found + [plan.unable(case, str(error)) for case in plan.cases[len(found) :]]
        self.peak_mib = max(self.peak_mib, session.peak_mib)
        return found

    def report(self, results: Sequence[CaseResult]) -> Report:
        """What was found, with the environments of all sides."""
        return Report(self.environment, tuple(results), time.monotonic() - self._start, self.peak_mib)

    def close(self) -> None:
        for key in list(self._open):
            self._end(key)

    def _session(self, plan: Plan) -> Session:
        key = _key(plan)
        if key in self._refused:
            raise self._refused[key]
        session = self._open.pop(key, None)
        while len(self._open) >= self._keep:
            self._end(next(iter(self._open)))
        try:
            session = session or plan.session()
        except BadInput as error:
            self._refused[key] = error
            raise
        self._open[key] = session
        self.environment |= {"seed": str(plan.seed)} | session.environment
        return session

    def _end(self, key: Plan) -> None:
        self._open.pop(key).close()


def _key(plan: Plan) -> Plan:
    """Plans that differ in their cases only are run by the same processes."""
    return dataclasses.replace(plan, cases=())
