"""The only file that knows the order: case -> tensors -> both sides -> criterion -> verdicts -> results."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from parity import diagnose, tensors, worker
from parity.cases import Case
from parity.compare import Verdict, compare, worst
from parity.criterion import Criterion, attention
from parity.dropout import judge_dropout
from parity.environment import machine, peak_mib
from parity.messages import Job, Options, Outcome, Pass
from parity.process import Side, wait_for
from parity.results import CaseResult, Report
from parity.spec import Spec

DEFAULT_REFERENCE, DEFAULT_CANDIDATE = "attend_torch:Attend", "attend_jax:Attend"
# How many cases the faster side may be ahead: enough to keep it busy, few enough to keep memory small.
AHEAD = 6
# How many quantities the reason of a case names: those of attention, all of them.
_REASONS = 6


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that decides a run. `reference` and `candidate` are what the sides' workers load, a `Spec` each;
    `notes` stand with every result."""

    cases: Sequence[Case]
    reference: Any
    candidate: Any
    seed: int = 0
    device: str | None = None
    implementations: tuple[str, ...] = ()
    timeout: float = 120.0
    fail_fast: bool = False
    cache_dir: str | None = None
    empty_shard: bool = False
    criterion: Criterion = attention
    notes: tuple[str, ...] = ()
    shard: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a report's environment says of the plan."""
        return {"seed": str(self.seed)} | ({"shard": self.shard} if self.shard else {})

    def command(self, case: Case, implementation: str | None) -> str:
        """The command that runs one case of this plan again."""
        words = ["parity", "run", "--case", case.name, "--seed", str(self.seed)]
        if str(self.reference) != DEFAULT_REFERENCE:
            words += ["--reference", full_spec(self.reference)]
        if str(self.candidate) != DEFAULT_CANDIDATE:
            words += ["--candidate", full_spec(self.candidate)]
        if implementation:
            words += ["--implementation", implementation]
        if self.device:
            words += ["--device", self.device]
        return shlex.join(words)

    def session(self) -> Session:
        """The sides of this plan, started."""
        return Session(self)


@dataclasses.dataclass
class Slot:
    """A case under way: what is known of it so far. `judging` is a session's own, if it judges arrays as they come."""

    case: Case
    implementation: str | None
    skip: str | None
    arrays: dict[str, np.ndarray] | None = None
    outcomes: dict[str, Outcome] = dataclasses.field(default_factory=dict)
    judging: Any = None


Listener = Callable[[CaseResult], None]


class Session:
    """Both sides' processes, started once; may run any number of plans' cases (fuzzing shrinks with it).

    This one is for attention; another source of cases says in a subclass how a side is started (`worker`, `_start`,
    `_ready`), what it is given (`_skips`, `_job`) and how its answers are judged (`_verdicts`, `_cause`).
    """

    worker: Callable[..., None] = staticmethod(worker.main)
    labels: tuple[str, ...] = ("reference", "candidate")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.heard: Callable[[Pass], None] = lambda one: None
        options = Options(plan.device, (), plan.cache_dir)
        self._sides = {label: self._start(label, options) for label in self.labels}
        try:
            self._hellos: dict[str, Any] = {label: side.hello() for label, side in self._sides.items()}
            self._ready()
        except BaseException:
            self.close()
            raise
        for side in self._sides.values():
            side.heard = lambda one: self.heard(one)
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
        slots = [Slot(c, i, self._skips(c, i)) for c, i in itertools.product(cases, implementations)]
        position = dict.fromkeys(self._sides, 0)
        waiting: dict[str, int] = {}  # sides with more arrays of a case, until it is that case's turn
        judged = 0
        while judged < len(slots):
            for label, side in self._sides.items():
                if waiting.get(label, judged + 1) <= judged:
                    del waiting[label]
                    side.go_on()
                while position[label] < len(slots) and slots[position[label]].skip is not None:
                    position[label] += 1
                at = position[label]
                if not side.busy and at < len(slots) and at - judged < AHEAD:
                    self._submit(at, slots[at], label)
                    position[label] += 1
            slot = slots[judged]
            if slot.skip is None and len(slot.outcomes) < len(self._sides):
                wait_for(list(self._sides.values()), 0.5)
                for label, side in self._sides.items():
                    outcome = side.poll()
                    if outcome is None:
                        continue
                    outcome = self._taken(slots[outcome.key], label, outcome)
                    if outcome.more:
                        waiting[label] = outcome.key
                        continue
                    waiting.pop(label, None)
                    slots[outcome.key].outcomes[label] = outcome
                    self._peaks[label] = max(self._peaks[label], outcome.peak_mib)
                continue
            result = self._judge(slot)
            slots[judged] = Slot(slot.case, slot.implementation, slot.skip)  # lets go of the arrays
            judged += 1
            listener(result)
            if self.plan.fail_fast and result.status in ("failed", "error"):
                return judged == len(slots)
        return True

    def _start(self, label: str, options: Options) -> Side:
        """A side on its way."""
        spec = self.plan.reference
        if label == "candidate":
            spec, options = self.plan.candidate, dataclasses.replace(options, implementations=self.plan.implementations)
        return Side(spec, options, label=label, timeout=self.plan.timeout, main=self.worker)

    def _ready(self) -> None:
        """Both sides have said hello."""

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

    def _submit(self, key: int, slot: Slot, label: str) -> None:
        try:
            job = self._job(key, slot, label)
        except MemoryError as error:  # sizes that this machine cannot hold; it costs their case
            slot.outcomes[label] = Outcome(key, lost=f"there is no memory for the {label}'s inputs: {error}")
        else:
            self._sides[label].submit(job)

    def _job(self, key: int, slot: Slot, label: str) -> Any:
        implementation = slot.implementation if label == "candidate" else None
        return Job(key, slot.case, self._arrays(slot), implementation, self.plan.seed)

    def _arrays(self, slot: Slot) -> dict[str, np.ndarray]:
        if slot.arrays is None:
            slot.arrays = tensors.make(slot.case, self.plan.seed)
        return slot.arrays

    def _taken(self, slot: Slot, label: str, outcome: Outcome) -> Outcome:
        """An outcome as it is to be kept, whose arrays may have been looked at; the first ones come ahead."""
        del slot, label
        return outcome

    def _judge(self, slot: Slot) -> CaseResult:
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
                verdicts = self._verdicts(slot, reference, candidate)
                status = worst([verdict.status for verdict in verdicts])
                if status == "failed":
                    cause = self._cause(case, slot.arrays, candidate, verdicts)
            except Exception as fault:  # ours; it costs this case, not the results already made
                status, reason = "error", f"a fault of the harness: {type(fault).__name__}: {fault}"
            else:
                bad = [verdict for verdict in verdicts if verdict.status == status]
                reason = "" if status == "passed" else _summary([f"{v.quantity}: {v.reason}" for v in bad])
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
            notes=self.plan.notes + (reference.notes if reference else ()) + (candidate.notes if candidate else ()),
            case=case,
        )

    def _verdicts(self, slot: Slot, reference: Outcome, candidate: Outcome) -> list[Verdict]:
        case, arrays = slot.case, slot.arrays or {}
        if case.kind == "dropout":
            return judge_dropout(case, arrays, reference.arrays, candidate.arrays, self.plan.criterion)
        return compare(self.plan.criterion(case, arrays), reference.arrays, candidate.arrays)

    def _cause(self, case: Case, arrays: dict[str, np.ndarray], candidate: Outcome, verdicts: list[Verdict]) -> str:
        if case.kind != "exact":
            return ""
        return diagnose.likely_cause(case, arrays, candidate.arrays, verdicts, self.plan.criterion)


def _summary(reasons: Sequence[str]) -> str:
    """The first few; a model has hundreds of parameters, and each verdict says the rest."""
    more = len(reasons) - _REASONS
    return "; ".join([*reasons[:_REASONS], *([f"and {more} more"] if more > 0 else [])])


class Run:
    """What has been found so far. Ctrl-C ends it early, and what is there stays."""

    def __init__(self, environment: Mapping[str, str], listener: Listener) -> None:
        self.results: list[CaseResult] = []
        self.environment = dict(environment)
        self.interrupted = False
        self._listener, self._start, self._memory = listener, time.monotonic(), 0

    def collect(self, result: CaseResult) -> None:
        self.results.append(result)
        self._listener(result)

    def within(self, start: Callable[[], Session], use: Callable[[Session], object]) -> None:
        """Use a session, close it, and keep its environment and memory for the report."""
        session = None
        try:
            session = start()
            self.environment |= session.environment
            use(session)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            if session is not None:
                self._memory = max(self._memory, session.peak_mib)
                session.close()

    def report(self, *, empty_shard: bool = False) -> Report:
        seconds = time.monotonic() - self._start
        return Report(self.environment, tuple(self.results), seconds, self._memory, self.interrupted, empty_shard)


def run(plan: Plan, listener: Listener = lambda result: None) -> Report:
    """Run a plan. Ctrl-C ends it early with a report of what was done.

    Raises:
      BadSpec: a side cannot start.
    """
    found = Run(plan.environment | machine(), listener)
    if plan.cases:
        found.within(plan.session, lambda session: session.run(plan.cases, found.collect))
    return found.report(empty_shard=plan.empty_shard)


def full_spec(spec: Spec) -> str:
    """A SPEC with its framework, if that was given."""
    return f"{spec.framework}:{spec}" if spec.framework else str(spec)
