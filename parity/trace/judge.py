"""From the arrays of a call to verdicts, by the bound of a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from parity.compare import SEVERITY, Verdict, judge
from parity.criterion import ARITHMETIC_FACTOR, Expectation
from parity.montecarlo.results import SPREAD_FACTOR
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH
from parity.trace import layout
from parity.trace.align import Aligned
from parity.trace.messages import ROOT, Forced, of

Arrays = Mapping[str, np.ndarray]
# A truth this far below its own rounding is zero.
_ZERO = 1e-3


@dataclasses.dataclass(frozen=True)
class Judge:
    """`torch` is what torch's worker returned, `flax` the port's results: gradients of parameters as torch has them."""

    torch: Arrays
    flax: Arrays

    def number(self, name: str, candidate: np.ndarray | None) -> Verdict:
        """One array, in torch's layout. What lies inside a model may have another dtype than torch gives it."""
        truth, spread, own = (self.torch[word + name] for word in (TRUTH, SPREAD, REFERENCE))
        zero = bool(truth.size) and bool(np.all(np.abs(truth) <= _ZERO * spread))
        width = SPREAD_FACTOR / ARITHMETIC_FACTOR * spread
        expected = Expectation(truth, width, str(own.dtype), tuple(range(truth.ndim)), zero=zero, vanishing=True)
        if candidate is not None:
            candidate = candidate.astype(own.dtype)
        return judge(name, expected, own, candidate)

    def forward(self, role: str, call: Aligned) -> Verdict | None:
        """The inputs or outputs of a call; None if it has none that are real numbers."""
        theirs, found = of(self.torch, TRUTH + role, call.torch), of(self.flax, role, call.flax)
        if not theirs:
            return None
        if call.torch == ROOT:
            return worst(self.number(f"{role}|{ROOT}|{name}", found.get(name)) for name in theirs)
        matched = layout.pairs(theirs, found)
        if not matched:
            return _unlike(role, theirs, found)
        return worst(
            self.number(f"{role}|{call.torch}|{leaf}", _laid(found[other], found[other], theirs[leaf]))
            for leaf, other in matched
        )

    def backward(self, role: str, call: Aligned, whole: Judge) -> Verdict | None:
        """Gradients of inputs or outputs, in the layout of the numbers of the whole model; None where a side has none,
        or has several gradients for what is one tensor on the other."""
        theirs, found = of(self.torch, TRUTH + "d" + role, call.torch), of(self.flax, "d" + role, call.flax)
        if call.torch == ROOT:
            return worst(self.number(f"d{role}|{ROOT}|{name}", found.get(name)) for name in theirs)
        numbers, values = of(whole.torch, TRUTH + role, call.torch), of(whole.flax, role, call.flax)
        matched = layout.pairs(numbers, values)
        if not theirs or not matched or len(numbers) != len(values):
            return None
        return worst(
            self.number(f"d{role}|{call.torch}|{leaf}", _laid(found[other], values[other], numbers[leaf]))
            for leaf, other in matched
            if leaf in theirs and other in found
        )

    def parameters(self, call: Aligned) -> Verdict | None:
        """The gradients of the parameters that are a call's own."""
        names = [f"d({name})" for name in call.parameters if TRUTH + f"d({name})" in self.torch]
        return worst(self.number(name, self.flax[name]) for name in names if name in self.flax)

    def forced(self, call: Aligned) -> Forced | str:
        """What the port's module is to be fed with: the reference's numbers in the port's layout, or why not."""
        numbers, values = of(self.torch, REFERENCE + "input", call.torch), of(self.flax, "input", call.flax)
        matched = layout.pairs(numbers, values)
        if matched is None or len(matched) != len(values):
            return f"inputs cannot be converted: {_shapes(numbers)} in torch, {_shapes(values)} in Flax"
        inputs = {other: _laid(numbers[leaf], numbers[leaf], values[other]) for leaf, other in matched}
        outputs, results = of(self.torch, REFERENCE + "output", call.torch), of(self.flax, "output", call.flax)
        gradients = of(self.torch, REFERENCE + "doutput", call.torch)
        pulled = {
            other: _laid(gradients[leaf], outputs[leaf], results[other])
            for leaf, other in layout.pairs(outputs, results) or ()
            if leaf in gradients
        }
        return Forced(
            {leaf: array.astype(values[leaf].dtype) for leaf, array in inputs.items() if array is not None},
            {leaf: array for leaf, array in pulled.items() if array is not None},
        )


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The worst of a call's arrays."""
    return max(verdicts, key=lambda verdict: (SEVERITY[verdict.status], verdict.bound_ratio), default=None)


def _laid(array: np.ndarray, given: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """An array as one of the same layout has to be turned to be like another."""
    found = layout.way(given, wanted)
    return None if found is None or array.shape != given.shape else np.ascontiguousarray(found(array))


def _unlike(role: str, torch: Arrays, flax: Arrays) -> Verdict:
    return Verdict(role, "failed", f"{_shapes(flax)} in Flax, {_shapes(torch)} in torch", np.inf, bound_ratio=np.inf)


def _shapes(arrays: Arrays) -> str:
    return ", ".join(str(array.shape) for array in arrays.values()) or "nothing"
