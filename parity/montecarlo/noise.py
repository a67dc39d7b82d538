"""The dispatch mode: every use of a tensor sees its own noise, of the size of the rounding that made the tensor.

An op runs on its inputs plus fresh noise; its result is stored without the noise of its own rounding, which each later
use draws anew. Noise that the uses of a tensor share would cancel where two algorithms round in different places
(the softmax's backward pass is one), and honest rewrites would be rejected: that is the part not to simplify.

Forward and backward ops come here alike, below autograd. What to do with one is looked up in `widths.RULES`; ops
without a rule are taken apart if torch knows how, else counted in `unruled` and treated the cautious way.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from parity.montecarlo.deviations import Deviations, collapsed
from parity.montecarlo.results import Rounding

# Beyond this a number is a mask's fill: it stands for "never", and what rounding does to it means nothing.
FILL = 1e30
# Noise below the smallest number must not turn a sign round: of what is flushed, this is left as its deviation.
FLUSHED = 0.25
# How many times its error a number that decides is given. More in 16 bits, where many flip, would leave no bound.
FINE, DOUBT, DOUBT_16_BITS = 2.0**-16, 8.0, 2.0

Rule = Callable[["Noise", Any, tuple[Any, ...], dict[str, Any]], Any]


class Noise(TorchDispatchMode):
    """One run. With a unit of 0 there is no noise, and `outcomes` and `decided` record what discrete ops say of what.

    `recorded` is such a run, to compare with. `flips` then holds, for each discrete op by its place in the run, its
    name and which elements came out otherwise.
    """

    def __init__(
        self,
        rules: dict[str, Rule],
        rounding: Rounding,
        seed: int = 0,
        recorded: Noise | None = None,
    ) -> None:
        super().__init__()
        self.rules, self.rounding, self.seed = rules, rounding, seed
        self.deviations = Deviations()
        self.unruled: collections.Counter[str] = collections.Counter()
        self.outcomes: list[tuple[str, torch.Tensor]] = []
        self.flips: dict[int, tuple[str, torch.Tensor]] = {}
        self.decided: list[torch.Tensor] = []
        self._expected = None if recorded is None else recorded.outcomes
        self._truths = [] if recorded is None else recorded.decided
        self._decisions = self._doubted = 0
        self._open: list[Any] = []  # ops being taken apart by torch
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.no_grad():
            return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op."""
        namespace, _, name = func._schema.name.partition("::")
        name = name if namespace == "aten" else f"{namespace}.{name}"
        if name in self.rules:
            return self.rules[name](self, func, args, kwargs)
        if func.is_view:  # the shadow is seen through it
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return self._in_place(func, name, args, kwargs)
        if not any(is_real(tensor) for tensor in tensors(args, kwargs)):
            return func(*args, **kwargs)
        apart = _taken_apart(func, namespace)
        if apart is not None and func not in self._open:  # some are "taken apart" into themselves
            self._open.append(func)
            try:
                with self:
                    return apart(*args, **kwargs)
            finally:
                self._open.pop()
        return self.without_rule(func, name, args, kwargs)

    def uses(self, value: Any) -> Any:
        """The arguments of an op, each tensor with noise of its own, the same tensor twice with two."""
        if isinstance(value, torch.Tensor):
            return self.use(value)
        if isinstance(value, dict):
            return {key: self.uses(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.uses(item) for item in value)
        return value

    def use(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor with fresh noise. Numbers that an expanded tensor repeats were rounded once: one noise for all."""
        if not is_real(tensor) or (deviation := self.deviations.of(tensor)) is None:
            return tensor
        base = collapsed(tensor)
        deviation = self.deviations.of(base) if base is not tensor else deviation
        assert deviation is not None
        return (base + self._drawn(deviation)).expand(tensor.shape)

    def doubted(self, value: Any) -> Any:
        """The arguments of an op that decides: as far from the truth as this run carried them, several times over.

        A flip is a jump, and the candidate's falls on other elements: what it may flip, some of the runs have to.
        """
        if isinstance(value, list | tuple):
            return type(value)(self.doubted(item) for item in value)
        if not is_real(value):
            return value
        place, self._doubted = self._doubted, self._doubted + 1
        if not self.rounding.unit:
            self.decided.append(value.detach().clone())
            return value
        used, truth = self.use(value), self._truths[place] if place < len(self._truths) else value
        if truth.shape != value.shape or truth.dtype != value.dtype:
            return used
        times = DOUBT if self.rounding.unit < FINE else DOUBT_16_BITS
        return torch.where(torch.isfinite(used) & torch.isfinite(truth), truth + times * (used - truth), used)

    def put(self, result: Any, deviation: torch.Tensor | None) -> Any:
        """Say what the deviation of a fresh result is, and hand it back."""
        if self.rounding.unit:
            self.deviations.put(result, deviation)
        return result

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """The deviation that rounding leaves on each element: u*|x|, or what flushing to zero costs if that is more."""
        size = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        size = size.detach().abs().to(torch.float32)
        deviation = size * self.rounding.unit
        if self.rounding.smallest:
            deviation = torch.maximum(deviation, (size * FLUSHED).clamp_(max=self.rounding.smallest))
        deviation.masked_fill_(~(size <= FILL), 0.0)  # NaN too
        return torch.view_as_complex(deviation) if tensor.is_complex() else deviation

    def constants(self, numbers: torch.Tensor) -> torch.Tensor | None:
        """The deviation of numbers from the program's text, exact in float64 only: u*|x| where the dtype lacks them.

        Which it has is what Veltkamp's splitting (Dekker 1971) leaves unchanged when it rounds to the dtype's bits.
        """
        if not self.rounding.unit or not is_real(numbers):
            return None
        x = (torch.view_as_real(numbers) if numbers.is_complex() else numbers).to(torch.float64)
        scaled = x * (2.0 ** (53 + math.log2(self.rounding.unit)) + 1)
        inexact = (scaled - (scaled - x) != x) & (x.abs() <= FILL)
        if not bool(inexact.any()):
            return None
        deviation = self.rounded(x).where(inexact, 0.0)
        return torch.view_as_complex(deviation) if numbers.is_complex() else deviation

    def decide(self, name: str, outcome: torch.Tensor) -> torch.Tensor:
        """A discrete op came out like this."""
        place, self._decisions = self._decisions, self._decisions + 1
        if not self.rounding.unit:
            self.outcomes.append((name, outcome.detach().clone()))
        elif self._expected is not None:
            before = self._expected[place] if place < len(self._expected) else ("", outcome)
            if before[0] != name or before[1].shape != outcome.shape:  # the program took another way
                self.flips[place] = (name, torch.ones_like(outcome, dtype=torch.bool))
            elif not torch.equal(before[1], outcome):
                self.flips[place] = (name, (before[1] != outcome) & ~((before[1] != before[1]) & (outcome != outcome)))
        return outcome

    def _drawn(self, deviation: torch.Tensor) -> torch.Tensor:
        if deviation.is_complex():
            return torch.view_as_complex(self._drawn(torch.view_as_real(deviation)))
        device = deviation.device
        if device not in self._generators:  # never the global one: the module's own randomness is the reference's
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        noise = torch.randn(deviation.shape, generator=self._generators[device], dtype=torch.float32, device=device)
        return noise.mul_(deviation)

    def _in_place(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As the op that returns its result, which is then written where the tensor is."""
        functional = _functional(func)
        if functional is None or "out" in kwargs:
            self.unruled[name] += 1
            result = func(*self.originals(args), **kwargs)
            for tensor in tensors(args, kwargs):
                if is_real(tensor):
                    self.put(tensor, self.rounded(tensor))
            return result
        target = args[0]
        value = self.call(functional, args, kwargs)
        target.copy_(value)
        self.put(target, self.deviations.of(value) if is_real(value) else None)
        return target

    def originals(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What an op that writes gets: the tensor itself, and the others with noise."""
        return (args[0], *self.uses(args[1:]))

    def without_rule(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The cautious way: as if the op were backward stable, and no better.

        Each element of each input is off by 2u of itself beside its own noise, which is what a stable algorithm may do
        to it (Higham, Accuracy and Stability, 1.5) and gives u*sqrt(sum of squares) for a sum and a contraction; each
        element of the result is off by u of itself and of the tensor's root mean square.
        """
        unit = 2 * self.rounding.unit

        def shaken(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(shaken(item) for item in value)
            if not is_real(value) or not unit:
                return value
            return value + self._drawn(2 * self.rounded(value))

        result = func(*shaken(self.uses(args)), **{key: shaken(value) for key, value in self.uses(kwargs).items()})
        outputs = [output for output in tensors((result,), {}) if output.numel()]
        if any(is_real(output) for output in outputs):
            self.unruled[name] += 1
        for output in outputs:
            if is_real(output):
                flat = torch.view_as_real(output) if output.is_complex() else output
                own = self.rounded(output)
                mean = flat.where(flat.abs() <= FILL, 0).square().mean().sqrt() * self.rounding.unit
                self.put(output, own + own.new_full((), float(mean)))
            else:
                self.decide(name, output)
        return result


def is_real(value: Any) -> bool:
    """A tensor of floating point or complex numbers: of what rounding can touch."""
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors among the arguments or results of an op, lists looked into."""
    found: list[torch.Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value, {})
    return found


def _functional(func: Any) -> Any:
    """`add.Tensor` for `add_.Tensor`; None if there is none."""
    name = func._schema.name.partition("::")[2]
    if not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, {"_index_put_impl_": "_unsafe_index_put"}.get(name, name[:-1]), None)
    return getattr(packet, func._overloadname, None) if packet is not None else None


def _taken_apart(func: Any, namespace: str) -> Callable[..., Any] | None:
    """How torch itself makes an op of simpler ones."""
    if namespace == "prims":
        return getattr(func, "impl_aten", None)
    if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return lambda *args, **kwargs: func.decompose(*args, **kwargs)
    return decomposition_table.get(func)
