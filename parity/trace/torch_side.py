"""The torch side of a trace: every call of a submodule, in the run's dtype, in float64, and with noise."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from parity import worker_torch
from parity.mapped import rest, spilled
from parity.montecarlo.results import Known
from parity.montecarlo.spread import Ahead, Rounding
from parity.pairs import torch_side
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, PairSide
from parity.pairs.nested import flatten
from parity.pairs.pair import Pair
from parity.trace.attributes import of_torch
from parity.trace.messages import ROOT, Module, Traced, TraceJob, key, named

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Tensors = dict[str, torch.Tensor]
set_up, environment = torch_side.set_up, torch_side.environment


class Watch:
    """Everything that goes into and comes out of the submodules' calls while it is entered.

    A module sees views of its inputs, and its caller a copy of what it returned: their gradients are those of this use
    alone (`x + dropout(x)` in evaluation would have one gradient for both). A copy, for a ReLU that works in place
    would leave the view of an output behind. `keep`: `arguments` are to be there for running calls again.
    """

    def __init__(self, module: torch.nn.Module, *, keep: bool, ahead: Ahead | None = None) -> None:
        self.values: Tensors = {}
        self.gradients: Tensors = {}
        self.shapes: Tensors = {}
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[Any, Any]] = {}
        self.within: list[str] = []
        self._keep, self._ahead = keep, ahead
        self._count: dict[str, int] = {}
        self._views: dict[str, tuple[torch.Tensor, int]] = {}
        self._modules = {path: child for path, child in module.named_modules() if path}
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        for path, child in self._modules.items():
            before, after = functools.partial(self._before, path), self._after
            self._handles.append(child.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(child.register_forward_hook(after))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for name, (view, version) in self._views.items():
            if view._version != version:  # changed in place: what its gradient was is not known any more
                del self.shapes[name]

    def forget(self) -> None:
        """What has been found is had by others. A tensor's hooks know the watch, in C++ where Python finds no cycle:
        what it saw has to go, or the graph of the whole pass stays."""
        for found in (self.values, self.gradients, self.shapes, self._views):
            found.clear()

    def _before(self, path: str, module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        del module
        number = self._count[path] = self._count.get(path, -1) + 1
        self.within.append(key(path, number))
        if self._keep:
            self.arguments[self.within[-1]] = _mapped(lambda tensor: tensor.detach().clone(), (args, kwargs))
        seen: tuple[Any, Any] = self._seen("input", self.within[-1], (args, kwargs))
        return seen

    def _after(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        del module, args
        call = self.within.pop()
        self.calls.append(call)
        return self._seen("output", call, output)

    def _pulled(self, name: str, gradient: torch.Tensor) -> None:
        self.gradients[name] = self._had(name, gradient)  # now: what is known of its rounding goes with its memory

    def _had(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """As it is now: it may be changed in place."""
        copied = tensor.detach().clone()
        return copied if self._ahead is None else self._ahead(name, copied)

    def _seen(self, role: str, call: str, value: Any) -> Any:
        output = role == "output"
        aliased = _mapped(lambda tensor: tensor.clone() if output else tensor.view_as(tensor), value)
        for leaf, tensor in enumerate(_real(aliased)):
            name = named(role, call, leaf)
            self.values[name] = self._had(name, tensor)
            if tensor.requires_grad:
                tensor.register_hook(functools.partial(self._pulled, "d" + name))
                self.shapes["d" + name] = self.values[name]
                if not output:
                    self._views["d" + name] = tensor, tensor._version
        return aliased


class Made:
    """The torch module of a pair, watched."""

    def __init__(self, pair: Pair, side: PairSide) -> None:
        self._made = torch_side.Made(pair, side)
        self._watch: Watch | None = None
        self.heard: Callable[[int, int], None] = lambda number, total: None
        self._kept: tuple[torch.nn.Module, Watch, Tensors] | None = None

    def described(self) -> Any:
        return self._made.described()

    def variants(self) -> tuple[str, ...]:
        """What `parity mutate` would ask for; nothing here."""
        return ()

    def place(self) -> str:
        """Where an exception came from, for its words."""
        return f"in {self._watch.within[-1].partition('#')[0]}: " if self._watch and self._watch.within else ""

    def trace(self, job: TraceJob) -> Traced:
        """Results in the case's dtype, the truth and its spread, each name with a word in front."""
        if job.alone is not None:
            return Traced(job.key, self._alone(job))
        module = copy.deepcopy(self._made.module).to(_FLOATS[job.case.run_dtype])
        reference = self._step(job, module, None)
        watch = self._watch
        assert watch is not None
        self._kept = module, watch, {name: x for name, x in reference.items() if name.startswith("doutput")}
        arrays = self._judged(
            job, module, reference, lambda double, ahead: self._step(job, double, torch.float64, ahead)
        )
        modules = (
            Module(path, type(child).__name__, of_torch(child)) for path, child in self._made.module.named_modules()
        )
        return Traced(job.key, arrays, modules=tuple(modules), calls=(*watch.calls, ROOT))

    def _step(
        self, job: TraceJob, module: torch.nn.Module, dtype: torch.dtype | None, ahead: Ahead | None = None
    ) -> Tensors:
        """All submodules' inputs and outputs, and the gradients of these, of the inputs and of the parameters."""
        inputs = torch_side._inputs(job, dtype)
        given = {name: inputs[name].requires_grad_() for name in job.case.named("input")}
        call = self._made.pair.torch_call
        with Watch(module, keep=dtype is None, ahead=ahead) as watch:
            self._watch = watch
            outputs = flatten(module(**inputs) if call is None else call(module, **inputs))
        for name, output in outputs.items():
            if not isinstance(output, torch.Tensor):
                raise TypeError(f"expected {name} to be a torch.Tensor, got {type(output).__name__}")
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        wanted: dict[str, Any] = {named("dinput", ROOT, name): tensor for name, tensor in given.items()}
        wanted |= {f"d({name})": parameter for name, parameter in parameters.items()}
        real = {name: output for name, output in outputs.items() if output.requires_grad}
        cotangents = torch_side.cotangents_of(job, real)
        found = dict(watch.values)
        found |= {named("output", ROOT, name): x.detach() for name, x in outputs.items() if x.is_floating_point()}
        if real:
            found |= torch_side.gradients_of(real.values(), cotangents, wanted, ahead)
            for name, value in watch.shapes.items():
                found[name] = watch.gradients[name] if name in watch.gradients else torch.zeros_like(value)
        watch.forget()
        return {name: tensor for name, tensor in found.items() if ahead is None or name not in ahead.taken}

    def _alone(self, job: TraceJob) -> dict[str, Any]:
        """Each of the calls that are named, on the inputs that it had in the run's dtype, and back from the gradient of
        its output there."""
        assert self._kept is not None
        assert job.alone is not None
        module, watch, whole = self._kept
        calls = {call: watch.arguments[call] for call in job.alone}
        reference = _each(module, calls, whole, None)
        return self._judged(
            job, module, reference, lambda double, ahead: _each(double, calls, whole, torch.float64, ahead)
        )

    def _judged(
        self,
        job: TraceJob,
        module: torch.nn.Module,
        results: Tensors,
        run: Callable[[torch.nn.Module, Ahead | None], Tensors],
    ) -> dict[str, Any]:
        """The reference beside its truth and the spread of that, kept as those of a run are; `results` are moved."""
        reference = spilled({name: worker_torch.to_numpy(tensor) for name, tensor in results.items()})
        results.clear()
        rounding = Rounding.of(job.case.run_dtype)

        def find() -> Known:
            double = copy.deepcopy(module).double()
            return torch_side.in_double(lambda ahead: run(double, ahead), job, self.heard)

        source = module, self._made.pair.torch_call, Made, Watch
        settings = "trace", job.case.name, job.seed, rounding, job.alone is None
        known = self._made.remembered(source, job, reference, settings, find)[0]
        rest(reference)
        found = {REFERENCE + name: array for name, array in reference.items()}
        found |= {TRUTH + name: array for name, array in known.truth.items()}
        return found | {SPREAD + name: array for name, array in known.spread.results.items()}


def _each(
    module: torch.nn.Module,
    calls: Mapping[str, tuple[Any, Any]],
    whole: Tensors,
    dtype: torch.dtype | None,
    ahead: Ahead | None = None,
) -> Tensors:
    found: Tensors = {}
    for call, arguments in calls.items():
        leaves: list[torch.Tensor] = []

        def leaf(tensor: torch.Tensor, leaves: list[torch.Tensor] = leaves) -> torch.Tensor:
            if not tensor.is_floating_point():
                return tensor
            leaves.append((tensor if dtype is None else tensor.to(dtype)).clone().requires_grad_())
            return leaves[-1].clone()  # a module that works in place may not do so on a leaf

        args, kwargs = _mapped(leaf, arguments)
        outputs = _real(module.get_submodule(call.partition("#")[0])(*args, **kwargs))
        found |= {named("output", call, place): output.detach() for place, output in enumerate(outputs)}
        pulled = {
            place: whole[named("doutput", call, place)].to(output.dtype)
            for place, output in enumerate(outputs)
            if output.requires_grad and named("doutput", call, place) in whole
        }
        if pulled and leaves:
            gradients = torch.autograd.grad(
                [outputs[place] for place in pulled], leaves, list(pulled.values()), allow_unused=True
            )
            for place, (tensor, gradient) in enumerate(zip(leaves, gradients, strict=True)):
                found[named("dinput", call, place)] = torch.zeros_like(tensor) if gradient is None else gradient
        if ahead is not None:
            for name in list(found):
                ahead(name, found.pop(name))
    return found


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """The same structure with other tensors; what is one tensor stays one, as attention's query, key and value."""
    done: dict[int, torch.Tensor] = {}

    def once(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) not in done:
            done[id(leaf)] = function(leaf)
        return done[id(leaf)]

    return pytree.tree_map(once, value)


def _real(value: Any) -> list[torch.Tensor]:
    """The real tensors of a structure, each once."""
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    return list({id(leaf): leaf for leaf in leaves}.values())
