"""Pairs in the pipeline: how their sides are started, given their weights, and judged."""

from __future__ import annotations

import dataclasses
import fnmatch
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parity.cases import Case
from parity.compare import Verdict, compare
from parity.criterion import Expectation
from parity.messages import Outcome
from parity.pairs import gradients, worker
from parity.pairs.cases import PairCase
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, UNCERTAIN, PairJob
from parity.pipeline import Plan, Session, Slot
from parity.results import CaseResult
from parity.tensors import AT_ONCE, dtype_of
from parity.weights import Rule, WeightMap, files, plan

# A bound is 2 * the reference's own error + 6 * spread (DESIGN 4); `Expectation.width` stands there doubled.
_SPREADS = 3.0
# A truth this far below its own rounding is zero: a gradient that vanishes, as that of a bias before a softmax.
_ZERO = 1e-3


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
            self._files[dtype] = str(path)
        return self._files[dtype]

    def _verdicts(
        self, case: Case, arrays: dict[str, np.ndarray], reference: Outcome, candidate: Outcome
    ) -> list[Verdict]:
        del arrays
        return judge(reference, _in_torch_names(self._map, candidate.arrays, case.dtype), self._compared)

    def _compared(self, quantity: str) -> bool:
        """Whether the user wants it, and, of torch's buffers, the Flax module has such a one."""
        if any(fnmatch.fnmatchcase(quantity, glob) for glob in self.plan.ignore):
            return False
        return not quantity.startswith("buffer(") or quantity[len("buffer(") : -1] in self._shared


def judge(
    reference: Outcome, found: Mapping[str, np.ndarray], compared: Callable[[str], bool] = lambda name: True
) -> list[Verdict]:
    """All verdicts on a candidate's results, by torch's names, against what torch's side has returned: on those
    quantities that are `compared`."""
    own = _part(reference, REFERENCE)
    spreads, uncertain = _part(reference, SPREAD), _part(reference, UNCERTAIN)
    found = {name: array for name, array in found.items() if compared(name)}
    truths = {name: truth for name, truth in _part(reference, TRUTH).items() if compared(name)}
    if not truths:
        return [Verdict("outputs", "inconclusive", "nothing is left to compare: the pair ignores all there is")]
    verdicts = [_structure(set(truths), set(found))]
    verdicts += [
        _discrete(name, own[name], found.get(name), uncertain.get(name)) for name in truths if name not in spreads
    ]

    for name in [name for name in truths if name in spreads]:  # one at a time, for its memory
        expectation = _expectation(truths[name], spreads[name], str(own[name].dtype))
        verdicts += [_unless_nan(verdict, truths[name]) for verdict in compare({name: expectation}, own, found)]
    return [verdict for verdict in verdicts if verdict]


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Weights as the run's dtype has them, in the dtype of their own."""
    if array.dtype != np.float32 or dtype == "float32":
        return array
    return array.astype(dtype_of(dtype)).astype(array.dtype)


def _in_torch_names(found: WeightMap, arrays: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """A Flax side's results, with the gradients of its parameters, d(path), and its buffers as torch has them."""
    words = ("d(", "buffer(")
    result = {name: array for name, array in arrays.items() if not name.startswith(words)}
    for word in words:
        own = {name[len(word) : -1]: array for name, array in arrays.items() if name.startswith(word)}
        result |= {f"{word}{name})": array for name, array in gradients.to_torch(found, own, dtype).items()}
    return result


def _part(outcome: Outcome, word: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(word): array for name, array in outcome.arrays.items() if name.startswith(word)}


def _expectation(truth: np.ndarray, spread: np.ndarray, dtype: str) -> Expectation:
    """The reference's own error is taken at its largest over the whole tensor: which of its axes are independent
    examples is not known."""
    zero = bool(truth.size) and _below(truth.reshape(-1), spread.reshape(-1))
    axes = tuple(range(truth.ndim))
    return Expectation(truth, _SPREADS * spread, dtype, axes, zero=zero, vanishing=True)


def _below(truth: np.ndarray, spread: np.ndarray) -> bool:
    """Whether all of it is far below its own rounding; as a rule the first block says that it is not."""
    blocks = range(0, truth.size, AT_ONCE)
    return all(np.all(np.abs(truth[n : n + AT_ONCE]) <= _ZERO * spread[n : n + AT_ONCE]) for n in blocks)


def _unless_nan(verdict: Verdict, truth: np.ndarray) -> Verdict:
    """Two modules that both give NaN agree on nothing."""
    if verdict.status != "passed" or np.isfinite(truth.sum()):
        return verdict
    count = int(np.isnan(truth).sum())
    if not count:
        return verdict
    words = f"{count} of {truth.size} are NaN on both sides, which proves nothing; other inputs would (std=, range=)"
    return dataclasses.replace(verdict, status="inconclusive", reason=words)


def _structure(reference: set[str], candidate: set[str]) -> Verdict | None:
    """Outputs of another structure. What the candidate alone lacks is said where it is missed."""
    extra = sorted(candidate - reference)
    if not extra:
        return None
    torch, flax = (", ".join(sorted(n for n in side if n.startswith("output"))) for side in (reference, candidate))
    if torch == flax:
        return Verdict("outputs", "failed", f"the candidate returns {', '.join(extra)} besides; the reference does not")
    words = f"the torch module returns {torch}, the Flax one {flax}; let torch_call or flax_call make them alike"
    return Verdict("outputs", "failed", words)


def _discrete(name: str, reference: np.ndarray, candidate: np.ndarray | None, uncertain: np.ndarray | None) -> Verdict:
    """Whole numbers and booleans: equal, except where rounding alone can change them."""
    if candidate is None:
        return Verdict(name, "failed", "the candidate returned nothing for this")
    if candidate.shape != reference.shape:
        return Verdict(name, "failed", f"the candidate has shape {candidate.shape}, expected {reference.shape}")
    if candidate.dtype.kind not in "biu":
        return Verdict(name, "failed", f"the candidate has dtype {candidate.dtype}, expected {reference.dtype}")
    free = np.zeros(reference.shape, bool) if uncertain is None else uncertain
    wrong = (candidate != reference) & ~free
    elements, count = reference.size, int(wrong.sum())
    if count:
        at = tuple(int(n) for n in np.argwhere(wrong)[0])
        return Verdict(
            name, "failed", f"{count} of {elements} differ ({100 * count / elements:.3g} %)", bound_ratio=np.inf,
            worst_index=at, candidate=float(candidate[at]), reference=float(reference[at]), truth=float(reference[at]),
            mismatched=count, elements=elements,
        )  # fmt: skip
    if free.size and free.mean() > 0.5:
        return Verdict(name, "inconclusive", "rounding alone can change most of it", elements=elements)
    words = f"equal, {int(free.sum())} that rounding can change left out" if free.any() else "equal"
    return Verdict(name, "passed", words, elements=elements)
