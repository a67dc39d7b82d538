"""The torch side of a pair: its results, the truth in float64, and how far rounding spreads them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from parity import worker_torch
from parity.mapped import rest, spilled, trim
from parity.messages import Options
from parity.montecarlo import cache
from parity.montecarlo.double import Double
from parity.montecarlo.results import Known
from parity.montecarlo.spread import RUNS, Ahead, Rounding, Spread, spread
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, UNCERTAIN, PairJob, PairSide, random_words
from parity.pairs.nested import flatten
from parity.pairs.pair import Pair, takes_dtype
from parity.weights import torch_side as weights

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Bytes of a truth, from which what a pass leaves to the allocator is worth being given back.
_LARGE = 1 << 26


def set_up(options: Options) -> None:
    worker_torch.set_up(options)


def environment() -> dict[str, str]:
    return worker_torch.environment()


class Made:
    """The torch module of a pair, in evaluation; a step of training is taken by a copy."""

    def __init__(self, pair: Pair, side: PairSide) -> None:
        self.pair, self._seed, self._spreads = pair, side.seed, side.spreads
        self.module = self._made(torch.float32)
        self._last: tuple[Any, Any] = None, None
        self.heard: Callable[[int, int], None] = lambda number, total: None

    def _made(self, dtype: torch.dtype) -> torch.nn.Module:
        torch.manual_seed(self._seed)
        module = self.pair.torch(dtype=dtype) if takes_dtype(self.pair.torch) else self.pair.torch()
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
        return module.eval()

    def _as(self, dtype: torch.dtype, weights: torch.nn.Module) -> torch.nn.Module:
        """The module in a dtype, with another's weights. One that is told its dtype may cast to it inside, and is made
        anew, the truth in float64 as well."""
        if not takes_dtype(self.pair.torch):
            held = {tensor.dtype for tensor in weights.parameters()} <= {dtype}
            return _copied(weights).to(dtype) if held else copy.deepcopy(weights).to(dtype)
        module = self._made(dtype).to(dtype)
        module.load_state_dict(weights.state_dict())
        return module

    def variants(self) -> tuple[str, ...]:
        return ()

    def described(self) -> tuple[tuple[Any, ...], dict[str, np.ndarray]]:
        return tuple(weights.describe(self.module)), dict(weights.arrays(self.module))

    def run(self, job: PairJob) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Results in the case's dtype, the truth and its spread, each name with a word in front; once for all variants
        of the other side."""
        if self._last[0] == (job.case, job.seed):
            arrays, notes = self._last[1]
            return dict(arrays), notes  # whoever takes them empties it
        self._last = None, None
        arrays, notes = self._results(job)
        if job.again:
            self._last = (job.case, job.seed), (dict(arrays), notes)
        return arrays, notes

    def _results(self, job: PairJob) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        module = self._as(_FLOATS[job.case.run_dtype], self.module)
        reference = spilled({name: _numpy(tensor) for name, tensor in self._step(module, job, None).items()})
        find = functools.partial(self._known, module, job, reference)
        source = module, self.pair.torch, self.pair.torch_call, Made
        settings = job.case.name, job.seed, Rounding.of(job.case.run_dtype)
        rest(reference)
        known, cached = self.remembered(source, job, reference, settings, find)
        widths = known.spread
        found = {REFERENCE + name: array for name, array in reference.items()}
        found |= {TRUTH + name: array for name, array in known.truth.items()}
        found |= {SPREAD + name: array for name, array in widths.results.items()}
        found |= {UNCERTAIN + name: array for name, array in widths.uncertain.items()}
        return found, _notes(widths) + (("bound from the cache",) if cached else ())

    def remembered(
        self,
        source: tuple[Any, ...],
        job: PairJob,
        reference: Mapping[str, np.ndarray],
        settings: tuple[Any, ...],
        find: Callable[[], Known],
    ) -> tuple[Known, bool]:
        """What is found, or was before: whatever `source` does not show of a function, the reference's results do."""
        if self._spreads is None:
            return find(), False
        return cache.remembered(self._spreads, source, job.arrays, reference, settings, find)

    def _known(self, module: torch.nn.Module, job: PairJob, reference: Mapping[str, np.ndarray]) -> Known:
        """Ten passes in float64. A module whose results were found in the cache is not random: there they are again."""
        self._check_repeats(module, job, reference)
        double = self._as(torch.float64, module)
        return in_double(lambda ahead: self._step(double, job, torch.float64, ahead), job, self.heard)

    def outputs(self, job: PairJob) -> dict[str, torch.Tensor]:
        """Those alone, in float32 and evaluation."""
        return self._call(self.module, _inputs(job, None))

    def _call(self, module: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        call = self.pair.torch_call
        outputs = flatten(module(**inputs) if call is None else call(module, **inputs))
        for name, output in outputs.items():
            if not isinstance(output, torch.Tensor):
                raise TypeError(f"expected {name} to be a torch.Tensor, got {type(output).__name__}")
        return outputs

    def _step(
        self, module: Any, job: PairJob, dtype: torch.dtype | None, ahead: Ahead | None = None
    ) -> dict[str, torch.Tensor]:
        """Outputs, the gradients of inputs and parameters, and after a step of training the buffers; all anew."""
        module = _in_mode(module, job)
        inputs = _inputs(job, dtype)
        given = {name: inputs[name].requires_grad_() for name in job.case.named("input")}
        versions = {name: tensor._version for name, tensor in inputs.items()}
        before = {name for name, _ in module.named_parameters()}
        outputs = self._call(module, inputs)
        made = before ^ {name for name, _ in module.named_parameters()}
        if made:
            raise ValueError(
                f"the torch module has other parameters after a call than before: {', '.join(sorted(made))}; make them "
                "in its constructor"
            )
        changed = [name for name, tensor in inputs.items() if tensor._version != versions[name]]
        if dtype is None and not changed:  # what is done to `.data`, or by NumPy, makes no new version
            changed = [name for name, first in _inputs(job, None).items() if not torch.equal(inputs[name], first)]
        if changed:
            raise ValueError(f"the torch module changes its input {changed[0]!r} in place; let it work on a copy")
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        wanted = {"d" + name: tensor for name, tensor in given.items()}
        wanted |= {f"d({name})": tensor for name, tensor in parameters.items()}
        real = {name: output for name, output in outputs.items() if output.requires_grad}
        cotangents = cotangents_of(job, real)
        found = {name: output.detach() for name, output in outputs.items()}
        if real and wanted:
            found |= gradients_of(real.values(), cotangents, wanted, ahead)
        if module.training:
            found |= {f"buffer({name})": buffer.detach() for name, buffer in module.named_buffers()}
        return found

    def _check_repeats(self, module: Any, job: PairJob, first: Mapping[str, np.ndarray]) -> None:
        inputs = _inputs(job, None)
        for name in job.case.named("input"):  # as the first time: without gradients torch may take other kernels
            inputs[name].requires_grad_()
        for name, output in self._call(_in_mode(module, job), inputs).items():
            if _differ(output.detach(), worker_torch.to_torch(first[name])):
                raise ValueError(random_words("torch", job.case.mode, name, _dropouts(module)))


def gradients_of(
    outputs: Iterable[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    ahead: Ahead | None,
) -> dict[str, torch.Tensor]:
    """The gradients that are wanted, zero where nothing depends on a tensor, without those that are taken `ahead`."""
    hooks = [tensor.register_hook(functools.partial(ahead, name)) for name, tensor in wanted.items() if ahead]
    gradients = torch.autograd.grad(list(outputs), list(wanted.values()), cotangents, allow_unused=True)
    for hook in hooks:
        hook.remove()
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient.detach()
        for (name, tensor), gradient in zip(wanted.items(), gradients, strict=True)
        if ahead is None or name not in ahead.taken
    }


def in_double(
    step: Callable[[Ahead | None], Mapping[str, torch.Tensor]], job: PairJob, heard: Callable[[int, int], None]
) -> Known:
    """The truth of a step in float64, and its spread: ten passes, each of which is heard of."""
    total, done = 2 + RUNS, 0

    def run(ahead: Ahead | None = None) -> Mapping[str, torch.Tensor]:
        nonlocal done
        heard(done, total)
        with Double():
            found = step(ahead)
        done += 1
        return found

    truth = spilled({name: _numpy(tensor) for name, tensor in run().items()})
    if sum(array.nbytes for array in truth.values()) >= _LARGE:
        trim()
    return Known(truth, spread(run, truth, Rounding.of(job.case.run_dtype), seed=job.seed, ahead=True))


def _in_mode(module: torch.nn.Module, job: PairJob) -> torch.nn.Module:
    """The module, or in training a copy of it: a step changes its buffers, and the next is to begin with the same."""
    return _copied(module).train() if job.case.mode == "train" else module


def _copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy that holds the very same parameters, which no step changes; buffers and all else are its own."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def _differ(again: torch.Tensor, first: torch.Tensor) -> bool:
    """By more than rounding: threads may add up in another order each time."""
    if not first.is_floating_point() or not first.numel():
        return not torch.equal(again, first)
    unit: float = torch.finfo(first.dtype).eps
    again, first = (tensor.nan_to_num().double() for tensor in (again, first))
    return bool((again - first).abs().max() > unit**0.5 * first.abs().max())


def _dropouts(module: torch.nn.Module) -> list[str]:
    """What drops, and how much of it."""
    rates = [(path, getattr(child, "p", getattr(child, "dropout", 0.0))) for path, child in module.named_modules()]
    return [f"`{path}` has {rate:g}" for path, rate in rates if isinstance(rate, float) and 0 < rate <= 1]


def _inputs(job: PairJob, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """As torch has them: whole numbers are int64, which is all that some of its functions take."""
    found = {}
    for name, array in job.arrays.items():
        tensor = worker_torch.to_torch(array)
        if tensor.is_floating_point():
            found[name] = tensor if dtype is None else tensor.to(dtype)
        else:
            found[name] = tensor if tensor.dtype == torch.bool else tensor.long()
    return found


def cotangents_of(job: PairJob, outputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """What each output is multiplied with on the way back, of a job of `run` or of `trace`."""
    return [
        worker_torch.to_torch(job.cotangent(name, tuple(output.shape))).to(output.dtype)
        for name, output in outputs.items()
    ]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return worker_torch.to_numpy(tensor)


def _notes(widths: Spread) -> tuple[str, ...]:
    """What a reader of the verdict should know of how its bound came about."""
    notes = []
    if widths.unruled:
        names = ", ".join(sorted(widths.unruled))
        notes.append(f"no rounding rule for {names}: treated cautiously")
    for name, count in sorted(widths.flips.items()):
        notes.append(f"rounding can flip {count} elements of {name}")
    return tuple(notes)
