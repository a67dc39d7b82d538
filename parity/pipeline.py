"""The only file that knows the order: case -> tensors -> both sides -> criterion -> verdicts -> results."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections.abc import Callable, Sequence

import numpy as np

from parity import diagnose, tensors
from parity.cases import Case
from parity.compare import Verdict, compare, worst
from parity.criterion import Criterion, attention
from parity.dropout import judge_dropout
from parity.environment import machine, peak_mib
from parity.messages import Hello, Job, Options, Outcome
from parity.process import Side, wait_for
from parity.results import CaseResult, Report
from parity.spec import Spec

DEFAULT_REFERENCE, DEFAULT_CANDIDATE = "attend_torch:Attend", "attend_jax:Attend"
# How many cases the faster side may be ahead: enough to keep it busy, few enough to keep memory small.
AHEAD = 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides a run."""

    cases: Sequence[Case]
    reference: Spec
    candidate: Spec
    seed: int = 0
    device: str | None = None
    implementations: tuple[str, ...] = ()
    timeout: float = 120.0
    fail_fast: bool = False
    cache_dir: str | None = None
    empty_shard: bool = False
    criterion: Criterion = attention

    def command(self, case: Case, implementation: str | None) -> str:
        """The command that runs one case of this plan again."""
        words = ["parity", "run", "--case", case.name, "--seed", str(self.seed)]
        if str(self.reference) != DEFAULT_REFERENCE:
            words += ["--reference", _full(self.reference)]
        if str(self.candidate) != DEFAULT_CANDIDATE:
            words += ["--candidate", _full(self.candidate)]
        if implementation:
            words += ["--implementation", implementation]
        if self.device:
            words += ["--device", self.device]
        return shlex.join(words)


@dataclasses.dataclass
class _Slot:
    """A case under way: what is known of it so far."""

    case: Case
    implementation: str | None
    skip: str | None
    arrays: dict[str, np.ndarray] | None = None
    outcomes: dict[str, Outcome] = dataclasses.field(default_factory=dict)


Listener = Callable[[CaseResult], None]


class Session:
    """Both sides' processes, started once; may run any number of plans' cases (fuzzing shrinks with it)."""

    def __init__(self, plan: Plan) -> None:
        options = Options(plan.device, (), plan.cache_dir)
        candidate_options = dataclasses.replace(options, implementations=plan.implementations)
        self.plan = plan
        self._sides = {
            "reference": Side(plan.reference, options, label="reference", timeout=plan.timeout),
            "candidate": Side(plan.candidate, candidate_options, label="candidate", timeout=plan.timeout),
        }
        try:
            self._hellos: dict[str, Hello] = {label: side.hello() for label, side in self._sides.items()}
        except BaseException:
            self.close()
            raise
        self._peaks = dict.fromkeys(self._sides, 0)
        self.environment = machine()
        for hello in self._hellos.values():
            self.environment |= hello.environment

    @property
    def peak_mib(self) -> int:
        """The most memory that both sides and this process have held, added up, in MiB."""
        return sum(self._peaks.values()) + peak_mib()

    def close(self) -> None:
        for side in self._sides.values():
            side.close()

    def run(self, cases: Sequence[Case], listener: Listener) -> bool:
        """Run and judge the cases in order; True if all were, False if --fail-fast ended it."""
        implementations = self.plan.implementations or (None,)
        slots = [_Slot(c, i, self._skips(c, i)) for c, i in itertools.product(cases, implementations)]
        position = dict.fromkeys(self._sides, 0)
        judged = 0
        while judged < len(slots):
            for label, side in self._sides.items():
                while position[label] < len(slots) and slots[position[label]].skip is not None:
                    position[label] += 1
                at = position[label]
                if not side.busy and at < len(slots) and at - judged < AHEAD:
                    side.submit(self._job(at, slots[at], label))
                    position[label] += 1
            slot = slots[judged]
            if slot.skip is None and len(slot.outcomes) < 2:
                wait_for(list(self._sides.values()), 0.5)
                for label, side in self._sides.items():
                    outcome = side.poll()
                    if outcome is not None:
                        slots[outcome.key].outcomes[label] = outcome
                        self._peaks[label] = max(self._peaks[label], outcome.peak_mib)
                continue
            result = self._judge(slot)
            slots[judged] = _Slot(slot.case, slot.implementation, slot.skip)  # lets go of the arrays
            judged += 1
            listener(result)
            if self.plan.fail_fast and result.status in ("failed", "error"):
                return judged == len(slots)
        return True

    def _skips(self, case: Case, implementation: str | None) -> str | None:
        accepts = self._hellos["candidate"].interface
        ours = "implementation" in accepts.constructor | accepts.call
        if not case.finite and (implementation not in (None, "auto", "einsum") or not ours):
            return "NaN and inf are specified for the einsum implementation only (S17)"
        for label, hello in self._hellos.items():
            missing = hello.interface.missing(case)
            if missing:
                return f"the {label} {missing}"
        return None

    def _job(self, key: int, slot: _Slot, label: str) -> Job:
        if slot.arrays is None:
            slot.arrays = tensors.make(slot.case, self.plan.seed)
        implementation = slot.implementation if label == "candidate" else None
        return Job(key, slot.case, slot.arrays, implementation, self.plan.seed)

    def _judge(self, slot: _Slot) -> CaseResult:
        case, verdicts, cause = slot.case, list[Verdict](), ""
        reference, candidate = slot.outcomes.get("reference"), slot.outcomes.get("candidate")
        if slot.skip is not None or reference is None or candidate is None:
            status, reason = "skipped", slot.skip or ""
        elif reference.lost or candidate.lost:
            status, reason = "error", reference.lost or candidate.lost or ""
        elif reference.raised or reference.refused:
            status, reason = "skipped", f"the reference raised {reference.raised or reference.refused}"
        elif candidate.refused:
            status, reason = "skipped", candidate.refused
        elif candidate.raised:
            status, reason = "failed", f"the candidate raised {candidate.raised}"
        else:
            assert slot.arrays is not None
            try:
                verdicts = self._verdicts(case, slot.arrays, reference, candidate)
                status = worst([verdict.status for verdict in verdicts])
                if status == "failed" and case.kind == "exact":
                    cause = diagnose.likely_cause(case, slot.arrays, candidate.arrays, verdicts, self.plan.criterion)
            except Exception as fault:  # ours; it costs this case, not the results already made
                status, reason = "error", f"a fault of the harness: {type(fault).__name__}: {fault}"
            else:
                bad = [verdict for verdict in verdicts if verdict.status == status]
                reason = "" if status == "passed" else "; ".join(f"{v.quantity}: {v.reason}" for v in bad)
        device = self._hellos["candidate"].environment
        return CaseResult(
            name=case.name,
            status=status,
            reason=reason,
            seed=self.plan.seed,
            dtype=case.dtype,
            implementation=slot.implementation or "auto",
            device=device.get("jax device") or device.get("torch device") or "unknown",
            reference=str(self.plan.reference),
            candidate=str(self.plan.candidate),
            command=self.plan.command(case, slot.implementation),
            verdicts=tuple(verdicts),
            cause=cause,
            seconds=(reference.seconds if reference else 0) + (candidate.seconds if candidate else 0),
        )

    def _verdicts(
        self, case: Case, arrays: dict[str, np.ndarray], reference: Outcome, candidate: Outcome
    ) -> list[Verdict]:
        if case.kind == "dropout":
            return judge_dropout(case, arrays, reference.arrays, candidate.arrays, self.plan.criterion)
        return compare(self.plan.criterion(case, arrays), reference.arrays, candidate.arrays)


def run(plan: Plan, listener: Listener = lambda result: None) -> Report:
    """Run a plan. Ctrl-C ends it early with a report of what was done.

    Raises:
      BadSpec: a side cannot start.
    """
    start = time.monotonic()
    results: list[CaseResult] = []
    environment: dict[str, str] = machine()
    interrupted, memory = False, 0

    def collect(result: CaseResult) -> None:
        results.append(result)
        listener(result)

    if plan.cases:
        session = None
        try:
            session = Session(plan)
            environment = session.environment
            session.run(plan.cases, collect)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if session is not None:
                memory = session.peak_mib
                session.close()
    environment = {"seed": str(plan.seed)} | environment
    return Report(environment, tuple(results), time.monotonic() - start, memory, interrupted, plan.empty_shard)


def _full(spec: Spec) -> str:
    return f"{spec.framework}:{spec}" if spec.framework else str(spec)
