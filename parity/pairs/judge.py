"""The verdicts on a pair's case: each quantity is judged when both sides have sent it, and let go of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from parity.compare import Verdict, compare
from parity.criterion import Expectation
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, UNCERTAIN
from parity.tensors import AT_ONCE

# A bound is 2 * the reference's own error + 6 * spread (DESIGN 4); `Expectation.width` stands there doubled.
_SPREADS = 3.0
# A truth this far below its own rounding is zero: a gradient that vanishes, as that of a bias before a softmax.
_ZERO = 1e-3


class Judging:
    """A case under way, whose arrays come in any order and any number of parts; all that belongs to one of the
    reference's quantities comes together. `compared` tells which quantities are.

    >>> judging, numbers = Judging(), np.arange(20.0)
    >>> judging.candidate({"output": numbers.astype(np.float32)})
    >>> found = {REFERENCE: numbers.astype(np.float32), TRUTH: numbers, SPREAD: np.full(20, 1e-7, np.float32)}
    >>> judging.reference({word + "output": array for word, array in found.items()})
    >>> [(verdict.quantity, verdict.status) for verdict in judging.verdicts()]
    [('output', 'passed')]
    """

    def __init__(self, compared: Callable[[str], bool] = lambda name: True) -> None:
        self._compared = compared
        self._expected: dict[str, dict[str, np.ndarray]] = {}  # of quantities that the candidate has not sent yet
        self._found: dict[str, np.ndarray] = {}  # of those that the reference has not
        self._names: set[str] = set()  # of the candidate's, as they came
        self._verdicts: dict[str, Verdict | None] = {}  # in the reference's order
        self._discrete: set[str] = set()  # quantities that are no real numbers

    def reference(self, arrays: Mapping[str, np.ndarray]) -> None:
        """What torch's side has returned, each name with a word in front."""
        for name in [name.removeprefix(TRUTH) for name in arrays if name.startswith(TRUTH)]:
            if self._compared(name):
                words = (REFERENCE, TRUTH, SPREAD, UNCERTAIN)
                self._expected[name] = {word: arrays[word + name] for word in words if word + name in arrays}
                self._verdicts[name] = None
                if SPREAD + name not in arrays:
                    self._discrete.add(name)
                self._judge(name)

    def candidate(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Results by torch's names."""
        for name, array in arrays.items():
            if self._compared(name):
                self._names.add(name)
                self._found[name] = array
                self._judge(name)

    def verdicts(self) -> list[Verdict]:
        """All of them: both sides have sent what they have."""
        if not self._verdicts:
            return [Verdict("outputs", "inconclusive", "nothing is left to compare: the pair ignores all there is")]
        for name in list(self._expected):
            self._verdicts[name] = _verdict(name, self._expected.pop(name), None)
        made = {name: verdict for name, verdict in self._verdicts.items() if verdict is not None}
        found = [*_structure(self._verdicts, self._names)]
        found += [verdict for name, verdict in made.items() if name in self._discrete]
        return found + [verdict for name, verdict in made.items() if name not in self._discrete]

    def _judge(self, name: str) -> None:
        if name in self._expected and name in self._found:
            self._verdicts[name] = _verdict(name, self._expected.pop(name), self._found.pop(name))


def judge(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[Verdict]:
    """All verdicts on results by torch's names, against what torch's side has returned."""
    judging = Judging()
    judging.reference(reference)
    judging.candidate(found)
    return judging.verdicts()


def _verdict(name: str, expected: Mapping[str, np.ndarray], found: np.ndarray | None) -> Verdict:
    own = expected[REFERENCE]
    if SPREAD not in expected:
        return _discrete(name, own, found, expected.get(UNCERTAIN))
    expectation = _expectation(expected[TRUTH], expected[SPREAD], str(own.dtype))
    candidate = {} if found is None else {name: found}
    (verdict,) = compare({name: expectation}, {name: own}, candidate)
    return _unless_nan(verdict, expected[TRUTH])


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


def _structure(reference: Iterable[str], candidate: set[str]) -> Iterator[Verdict]:
    """Outputs of another structure. What the candidate alone lacks is said where it is missed."""
    extra = sorted(candidate.difference(reference))
    if not extra:
        return
    torch, flax = (", ".join(sorted(n for n in side if n.startswith("output"))) for side in (reference, candidate))
    if torch == flax:
        yield Verdict("outputs", "failed", f"the candidate returns {', '.join(extra)} besides; the reference does not")
        return
    words = f"the torch module returns {torch}, the Flax one {flax}; let torch_call or flax_call make them alike"
    yield Verdict("outputs", "failed", words)


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
