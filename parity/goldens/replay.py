"""Plans and sessions whose reference answers from a golden; all else is as in any run."""

from __future__ import annotations

import dataclasses
import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.cases import Case
from parity.compare import Verdict, compare
from parity.goldens.golden import COTANGENT, Recording, Reference
from parity.messages import Options, Outcome
from parity.pairs.session import PairPlan, PairSession
from parity.pipeline import DEFAULT_CANDIDATE, Plan, Session, Slot, full_spec
from parity.process import Side


class Answers(Side):
    """A side without a process, which answers what was recorded, at once and in order."""

    def __init__(self, reference: Reference, kind: str) -> None:
        self.label = "reference"
        self._reference, self._kind = reference, kind
        self._recordings = {recording.case.name: recording for recording in reference.cases}
        self._ready: deque[Outcome] = deque()

    def hello(self) -> Any:
        return self._reference.hello

    @property
    def busy(self) -> bool:
        return False

    def submit(self, job: Any) -> None:
        self._ready.append(self._recordings[job.case.name].outcome(job.key, self._kind))

    def poll(self) -> Outcome | None:
        return self._ready.popleft() if self._ready else None

    def go_on(self) -> None:
        """Nothing waits: there is never more."""

    def close(self) -> None:
        """There is nothing to end."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a plan's reference is from: the file, its name for people, and what it holds of this reference."""

    path: str
    kind: str
    recorded: Reference

    @property
    def recordings(self) -> Mapping[str, Recording]:
        return {recording.case.name: recording for recording in self.recorded.cases}

    def __str__(self) -> str:
        return self.recorded.name


class _FromFile:
    """What both kinds of session do otherwise: the reference's side, and where inputs come from."""

    plan: Any

    def _start(self, label: str, options: Options) -> Side:
        if label == "reference":
            return Answers(self.plan.source.recorded, self.plan.source.kind)
        return super()._start(label, options)  # type: ignore[misc]

    def _arrays(self, slot: Slot) -> dict[str, np.ndarray]:
        if slot.arrays is None:
            # Copies: what is read from a file cannot be written to, and not every target leaves its inputs alone.
            slot.arrays = {name: array.copy() for name, array in self._recording(slot.case).part("input/").items()}
        return slot.arrays

    def _recording(self, case: Case) -> Recording:
        found: Recording = self.plan.source.recordings[case.name]
        return found


class AttentionReplay(_FromFile, Session):
    def _verdicts(self, slot: Slot, reference: Outcome, candidate: Outcome) -> list[Verdict]:
        if slot.case.kind != "exact":
            return super()._verdicts(slot, reference, candidate)
        return compare(self._recording(slot.case).expectations(), reference.arrays, candidate.arrays)


class PairReplay(_FromFile, PairSession):
    def _job(self, key: int, slot: Slot, label: str) -> Any:
        job = super()._job(key, slot, label)
        return dataclasses.replace(job, cotangents=self._recording(slot.case).part(COTANGENT))


@dataclasses.dataclass(frozen=True)
class AttentionReplayPlan(Plan):
    """A plan whose `reference` is a `Source`."""

    @property
    def source(self) -> Source:
        found: Source = self.reference
        return found

    def session(self) -> Session:
        return AttentionReplay(self)

    def command(self, case: Case, implementation: str | None) -> str:
        words = ["parity", "replay", self.source.path, "--case", case.name]
        if str(self.candidate) != DEFAULT_CANDIDATE:
            words += ["--candidate", full_spec(self.candidate)]
        words += ["--implementation", implementation] if implementation else []
        return shlex.join(words + (["--device", self.device] if self.device else []))


@dataclasses.dataclass(frozen=True)
class PairReplayPlan(PairPlan):
    """The same for a pair; `pair` is what `--pair` is to say, if it is not the pair that was recorded."""

    pair: str | None = None

    @property
    def source(self) -> Source:
        found: Source = self.reference
        return found

    def session(self) -> Session:
        return PairReplay(self)

    def command(self, case: Case, implementation: str | None) -> str:
        del implementation
        words = ["parity", "replay", self.source.path, "--case", case.name]
        words += ["--pair", self.pair] if self.pair else []
        return shlex.join(words + (["--device", self.device] if self.device else []))
