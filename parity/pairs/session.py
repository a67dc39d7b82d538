"""Pairs in the pipeline: how their sides are started, given their weights, and judged."""

from __future__ import annotations

import dataclasses
import fnmatch
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from parity.cases import Case
from parity.compare import Verdict
from parity.mapped import rest, spilled
from parity.messages import Outcome
from parity.pairs import gradients, worker
from parity.pairs.cases import PairCase
from parity.pairs.judge import Judging
from parity.pairs.messages import PairJob
from parity.pipeline import Plan, Session, Slot
from parity.results import CaseResult
from parity.tensors import dtype_of
from parity.weights import Rule, files, plan


@dataclasses.dataclass(frozen=True)
class PairPlan(Plan):
    """A plan for one pair: `reference` and `candidate` are its two `PairSide`s. `rules` are the user's for weights,
    `ignore` globs over the quantities that are not compared."""

    rules: tuple[tuple[str, ...], ...] = ()
    ignore: tuple[str, ...] = ()

    def command(self, case: Case, implementation: str | None) -> str:
        del implementation
        words = ["parity", "run", "--pair", self.reference.pair, "--case", case.name, "--seed", str(self.seed)]
        return shlex.join(words + (["--device", self.device] if self.device else []))

    def session(self) -> Session:
        return PairSession(self)

    def unable(self, case: Case, reason: str) -> CaseResult:
        """What becomes of a case when the two modules cannot be brought together: made, or given the same weights."""
        return CaseResult(
            case.name, "failed", reason, self.seed, case.dtype, "auto", "unknown", str(self.reference),
            str(self.candidate), self.command(case, None), notes=self.notes, case=case,
        )  # fmt: skip


class PairSession(Session):
    """Both sides of one pair. The torch module's weights are the Flax one's too."""

    worker = staticmethod(worker.main)
    plan: PairPlan

    def _ready(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="parity-")
        self._files: dict[str, str] = {}
        hello = self._hellos["reference"]
        self._hellos["reference"] = dataclasses.replace(hello, arrays=spilled(hello.arrays))
        torch, flax = self._hellos["reference"], self._hellos["candidate"]
        self._map = plan(torch.layers, flax.layers, [Rule(*rule) for rule in self.plan.rules])
        self._shared = {tensor.path for entry in self._map.entries if entry.flax for tensor in entry.torch}

    @property
    def variants(self) -> tuple[str, ...]:
        """The modules that stand for the candidate in `parity mutate --pair`."""
        found: tuple[str, ...] = self._hellos["candidate"].variants
        return found

    def close(self) -> None:
        super().close()
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _skips(self, case: Case, implementation: str | None) -> None:
        del case, implementation

    def _job(self, key: int, slot: Slot, label: str) -> Any:
        assert isinstance(slot.case, PairCase)
        weights = self._weights(slot.case.run_dtype) if label == "candidate" else None
        variant = slot.implementation if label == "candidate" else None
        again = len(self.plan.implementations) > 1
        return PairJob(key, slot.case, self._arrays(slot), weights, self.plan.seed, variant, again)

    def _weights(self, dtype: str) -> str:
        """A file with the Flax module's weights in a dtype."""
        if dtype not in self._files:
            rounded = {name: _rounded(array, dtype) for name, array in self._hellos["reference"].arrays.items()}
            arrays = self._map.to_flax(rounded)
            path = Path(self._folder.name) / f"{dtype}.safetensors"
            files.write(path, arrays)
            rest(self._hellos["reference"].arrays)
            self._files[dtype] = str(path)
        return self._files[dtype]

    def _taken(self, slot: Slot, label: str, outcome: Outcome) -> Outcome:
        """Judge what both sides have sent, and let go of it. A fault of ours is kept for when the case's turn comes."""
        slot.judging = slot.judging or (gradients.Arriving(self._map, slot.case.dtype), Judging(self._compared))
        try:
            if not isinstance(slot.judging, Exception):
                _take(slot.judging, label, outcome)
        except Exception as fault:
            slot.judging = fault
        return dataclasses.replace(outcome, arrays={})

    def _verdicts(self, slot: Slot, reference: Outcome, candidate: Outcome) -> list[Verdict]:
        del reference, candidate
        if isinstance(slot.judging, Exception):
            raise slot.judging
        verdicts: list[Verdict] = slot.judging[1].verdicts()
        return verdicts

    def _compared(self, quantity: str) -> bool:
        """Whether the user wants it, and, of torch's buffers, the Flax module has such a one."""
        if any(fnmatch.fnmatchcase(quantity, glob) for glob in self.plan.ignore):
            return False
        return not quantity.startswith("buffer(") or quantity[len("buffer(") : -1] in self._shared


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Weights as the run's dtype has them, in the dtype of their own."""
    if array.dtype != np.float32 or dtype == "float32":
        return array
    return array.astype(dtype_of(dtype)).astype(array.dtype)


def _take(under_way: tuple[gradients.Arriving, Judging], label: str, outcome: Outcome) -> None:
    names, judging = under_way
    if label == "reference":
        judging.reference(outcome.arrays)
        return
    judging.candidate(names.come(outcome.arrays))
    if not outcome.more:
        judging.candidate(names.rest())
