"""Run the reference alone, and keep what it says; a case that costs its worker costs no other."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.cases import Case
from parity.criterion import Expectation
from parity.environment import machine, versions
from parity.errors import BadInput
from parity.goldens.golden import ATTENTION, COTANGENT, INPUT, PAIR, RESULT, TRUTH, WIDTH, Flags, Golden, Recording
from parity.goldens.golden import Reference as Recorded
from parity.messages import Outcome
from parity.pairs.cases import PairCase, cotangent, label
from parity.pairs.messages import REFERENCE
from parity.pairs.session import PairPlan, PairSession
from parity.pipeline import Plan, Session, Slot
from parity.results import CaseResult

RECORDED = "recorded"


class _Alone:
    """A session without a candidate; its verdict on a case is that it was recorded."""

    labels: tuple[str, ...] = ("reference",)
    plan: Any
    _hellos: dict[str, Any]
    recordings: dict[str, Recording]

    def _ready(self) -> None:
        self.recordings = {}

    def _taken(self, slot: Slot, label: str, outcome: Outcome) -> Outcome:
        """All arrays are kept."""
        del label
        slot.judging = {**(slot.judging or {}), **outcome.arrays}
        return outcome if outcome.more else dataclasses.replace(outcome, arrays=slot.judging)

    def _judge(self, slot: Slot) -> CaseResult:
        case, outcome = slot.case, slot.outcomes.get("reference")
        status, reason = RECORDED, ""
        if slot.skip is not None or outcome is None:
            status, reason = "skipped", slot.skip or ""
        elif outcome.lost:
            status, reason = "error", outcome.lost
        else:
            assert slot.arrays is not None
            raised = outcome.raised or outcome.refused
            reason = f"the reference raised {raised}" if raised else ""
            arrays = {INPUT + name: array for name, array in slot.arrays.items()}
            arrays, expected = (arrays, {}) if raised else self._kept(case, arrays, outcome)
            self.recordings[case.name] = Recording(case, arrays, raised, outcome.notes, expected)
        return _result(self.plan, case, status, reason)

    def _kept(
        self, case: Case, arrays: dict[str, np.ndarray], outcome: Outcome
    ) -> tuple[dict[str, np.ndarray], dict[str, Flags]]:
        """The arrays of a case, and what to know of its truth."""
        raise NotImplementedError


class AttentionAlone(_Alone, Session):
    def _skips(self, case: Case, implementation: str | None) -> str | None:
        del implementation
        missing = self._hellos["reference"].interface.missing(case)
        return f"the reference {missing}" if missing else None

    def _kept(
        self, case: Case, arrays: dict[str, np.ndarray], outcome: Outcome
    ) -> tuple[dict[str, np.ndarray], dict[str, Flags]]:
        arrays = arrays | {RESULT + name: array for name, array in outcome.arrays.items()}
        if case.kind != "exact":  # the truth of a dropout case depends on what the candidate will have dropped
            return arrays, {}
        inputs = {name.removeprefix(INPUT): array for name, array in arrays.items() if name.startswith(INPUT)}
        expected = self.plan.criterion(case, inputs)
        for name, expectation in expected.items():
            arrays |= {TRUTH + name: expectation.truth, WIDTH + name: expectation.width}
        return arrays, {name: _flags(expectation) for name, expectation in expected.items()}

    def reference(self) -> Recorded:
        hello = self._hellos["reference"]
        cases = tuple(self.recordings.values())
        return Recorded(str(self.plan.reference), hello.environment, cases, interface=hello.interface)


class PairAlone(_Alone, PairSession):
    def _kept(
        self, case: Case, arrays: dict[str, np.ndarray], outcome: Outcome
    ) -> tuple[dict[str, np.ndarray], dict[str, Flags]]:
        """Both sides make the cotangents from the seed; another NumPy may draw other numbers, so they are kept."""
        assert isinstance(case, PairCase)
        arrays = arrays | dict(outcome.arrays)
        outputs = {
            name.removeprefix(REFERENCE): a.shape for name, a in outcome.arrays.items() if name.startswith(REFERENCE)
        }
        for name, shape in outputs.items():
            if name.split(".")[0] == "output":
                arrays[COTANGENT + name] = cotangent(self.plan.seed, case.name, name, shape, case.run_dtype)
        return arrays, {}

    def reference(self) -> Recorded:
        hello, spec = self._hellos["reference"], self.plan.reference
        cases = tuple(self.recordings.values())
        return Recorded(spec.pair, hello.environment, cases, layers=tuple(hello.layers), weights=hello.arrays)


@dataclasses.dataclass(frozen=True)
class AttentionRecord(Plan):
    """A plan whose session runs the reference only."""

    def session(self) -> Session:
        return AttentionAlone(self)


@dataclasses.dataclass(frozen=True)
class PairRecord(PairPlan):
    """The same for a pair."""

    def session(self) -> Session:
        return PairAlone(self)


def unable(plan: Plan, case: Case, reason: str) -> CaseResult:
    """What becomes of a case whose reference cannot be made."""
    return _result(plan, case, "error", reason)


def _result(plan: Plan, case: Case, status: str, reason: str) -> CaseResult:
    return CaseResult(
        case.name, status, reason, plan.seed, case.dtype, "auto", "", str(plan.reference), "", "", case=case
    )


def as_records(plans: Sequence[PairPlan]) -> list[PairRecord]:
    """Plans of pairs without their candidates. Raises BadInput where two would have one name in the file."""
    named = Counter(label(plan.reference.pair) for plan in plans if plan.cases)
    twice = [name for name, count in named.items() if count > 1]
    if twice:
        raise BadInput(
            f"two of the pairs have the name {twice[0]} and cannot be told apart in one file; record each in its own"
        )
    kept = [plan for plan in plans if plan.cases]
    return [
        PairRecord(**{field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}) for plan in kept
    ]


def golden(plans: Sequence[Plan], references: Sequence[Recorded], command: str) -> Golden:
    """What sessions of these plans have found, as a whole."""
    kind = PAIR if isinstance(plans[0], PairPlan) else ATTENTION
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        **{name: version for name, version in versions().items() if version != "not installed"},
        **machine(),
    }
    return Golden(kind, plans[0].seed, provenance, tuple(references))


def _flags(expectation: Expectation) -> Flags:
    return Flags(expectation.dtype, expectation.shared, expectation.zero, expectation.vanishing)
