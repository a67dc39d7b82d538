"""The Flax side of a trace, nnx or Linen: every call of a submodule in the whole model, or alone on other inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from parity.pairs import flax_side
from parity.pairs.messages import PairSide
from parity.pairs.pair import Pair
from parity.trace.attributes import of_flax
from parity.trace.messages import ROOT, Forced, Module, Traced, TraceJob, key, named
from parity.worker import words

set_up, environment = flax_side.set_up, flax_side.environment
Arrays = dict[str, jax.Array]


class Watch:
    """What goes into and comes out of submodules' calls. Numbers of `perturb` (zeros, to differentiate by) are added to
    it by name; calls in `forced` run once more, with those inputs, and what they return is in `alone`."""

    def __init__(self, perturb: Mapping[str, jax.Array], forced: Mapping[str, Mapping[str, jax.Array]]) -> None:
        self.values: Arrays = {}
        self.alone: Arrays = {}
        self.calls: list[str] = []
        self.silent: dict[str, str] = {}
        self.modules: dict[str, Module] = {}
        self.within: list[str] = []
        self._perturb, self._forced = perturb, forced
        self._count: dict[str, int] = {}
        self._off = False

    @contextlib.contextmanager
    def over(self, module: Any) -> Iterator[None]:
        """Watch the submodules of an nnx module, or of a bound Linen one."""
        self._trace = nnx.tracers.current_jax_trace()
        with _nnx(module, self) if isinstance(module, nnx.Module) else linen.intercept_methods(self._linen):
            yield

    def _linen(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = ".".join(context.module.path) if context.module.scope is not None else ""
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        seen = context.module

        def alone(*args: Any, **kwargs: Any) -> Any:  # a compact method cannot be called twice from within a call
            return seen.clone(parent=None, name=None).apply(seen.variables, *args, **kwargs)

        return self.call(path, seen, call, alone, args, kwargs)

    def call(
        self, path: str, module: Any, function: Callable[..., Any], alone: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """A call of the module at a path; `super().__call__` in it is none of its own."""
        self.modules.setdefault(path, Module(path, _kind(module), of_flax(module)))
        inside = bool(self.within) and self.within[-1].partition("#")[0] == path
        if not path or inside or self._off:
            return function(*args, **kwargs)
        if nnx.tracers.current_jax_trace() != self._trace:
            self.silent[path] = "runs inside a transformation of JAX, such as jit, scan or checkpoint"
            return function(*args, **kwargs)
        number = self._count[path] = self._count.get(path, -1) + 1
        call = key(path, number)
        self.within.append(call)
        args, kwargs = self._seen("input", call, (args, kwargs))
        if call in self._forced:
            self._run_alone(call, alone, args, kwargs)
        output = self._seen("output", call, function(*args, **kwargs))
        self.within.pop()  # not in a `finally`: where an exception came from is to be seen
        self.calls.append(call)
        return output

    def _seen(self, role: str, call: str, value: Any) -> Any:
        def seen(place: int, leaf: jax.Array) -> jax.Array:
            name = named(role, call, place)
            leaf = leaf + self._perturb["d" + name] if "d" + name in self._perturb else leaf
            self.values[name] = leaf
            return leaf

        return _mapped(seen, value)

    def _run_alone(self, call: str, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        given = self._forced[call]
        self._off = True
        try:
            args, kwargs = _mapped(lambda place, leaf: given.get(str(place), leaf), (args, kwargs))
            output = function(*args, **kwargs)
        except Exception as error:  # the module does not take what the reference's did: that is an answer
            self.silent[call] = f"raises {words(error)} on the reference's inputs"
        else:
            _mapped(lambda place, leaf: self.alone.setdefault(named("output", call, place), leaf), output)
        finally:
            self._off = False


@contextlib.contextmanager
def _nnx(module: nnx.Module, watch: Watch) -> Iterator[None]:
    """`__call__` is looked up on classes, so it is they that are changed for the time of a call."""
    nodes = {id(node): (path, node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Module)}
    classes: set[Any] = {type(node) for _, node in nodes.values() if callable(node)}
    originals = {cls: cls.__call__ for cls in classes}
    own = {cls for cls in classes if "__call__" in vars(cls)}

    def patched(original: Any) -> Any:
        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            function = functools.partial(original, self)
            if id(self) not in nodes:  # made in the call, or a copy inside a transformation
                return function(*args, **kwargs)
            path = ".".join(map(str, nodes[id(self)][0]))
            return watch.call(path, self, function, function, args, kwargs)

        return call

    for path, node in nodes.values():
        place = ".".join(map(str, path))
        watch.modules.setdefault(place, Module(place, _kind(node), of_flax(node)))
    for cls, original in originals.items():
        cls.__call__ = patched(original)
    try:
        yield
    finally:
        for cls, original in originals.items():
            if cls in own:
                cls.__call__ = original
            else:
                del cls.__call__


class Made(flax_side.Made):
    """The Flax module of a pair, watched."""

    def __init__(self, pair: Pair, side: PairSide) -> None:
        super().__init__(pair, side)
        self._watch = Watch({}, {})

        def observed(module: Any, **inputs: Any) -> Any:
            with self._watch.over(module):
                return flax_side.called(pair, False, module, **inputs)

        self.pair = dataclasses.replace(pair, flax_call=observed)

    def place(self) -> str:
        """Where an exception came from, for its words."""
        return f"in {self._watch.within[-1].partition('#')[0]}: " if self._watch.within else ""

    def trace(self, job: TraceJob) -> Traced:
        """In the whole model: inputs and outputs of all calls, gradients of these and of parameters. Alone: the outputs
        of calls, and gradients of their inputs."""
        self.prepare(job)
        inputs = {name: jnp.asarray(array) for name, array in job.arrays.items()}
        form = self.form(job, train=False)
        parameters = form.parameters

        def watched(inputs: Any, parameters: Any, perturb: Any, forced: Any) -> tuple[Any, Watch]:
            self._watch = Watch(perturb, forced)
            return form.call(parameters, form.streams, **inputs)[0], self._watch

        if job.alone is None:
            results = _whole(job, watched, inputs, parameters)
        else:
            results = _alone(job.alone, watched, inputs, parameters)
        jax.clear_caches()
        found = {name: np.asarray(array) for name, array in results.items()}
        watch = self._watch
        return Traced(
            job.key, found, modules=tuple(watch.modules.values()), calls=(*watch.calls, ROOT), silent=watch.silent
        )


def _whole(job: TraceJob, watched: Any, inputs: Any, parameters: Any) -> Arrays:
    values = jax.eval_shape(lambda *given: watched(*given, {}, {})[1].values, inputs, parameters)
    perturb = {"d" + name: jnp.zeros(x.shape, x.dtype) for name, x in values.items()}
    given = {name: inputs[name] for name in job.case.named("input")}
    constants = {name: x for name, x in inputs.items() if name not in given}

    def function(given: Any, parameters: Any, perturb: Any) -> tuple[Arrays, Arrays]:
        outputs, watch = watched(given | constants, parameters, perturb, {})
        return {name: x for name, x in outputs.items() if jnp.issubdtype(x.dtype, jnp.inexact)}, watch.values

    def step(*arguments: Any) -> Arrays:
        real, vjp, values = jax.vjp(function, *arguments, has_aux=True)
        cotangents = {name: jnp.asarray(job.cotangent(name, x.shape), x.dtype) for name, x in real.items()}
        of_inputs, of_parameters, of_calls = vjp(cotangents)
        found = values | of_calls | {named("output", ROOT, name): x for name, x in real.items()}
        found |= {named("dinput", ROOT, name): x for name, x in of_inputs.items()}
        return found | {f"d({name})": x for name, x in of_parameters.items()}

    results: Arrays = jax.jit(step)(given, parameters, perturb)
    return results


def _alone(calls: Mapping[str, Forced | None], watched: Any, inputs: Any, parameters: Any) -> Arrays:
    given = {call: dict(forced.inputs) for call, forced in calls.items() if forced is not None}
    cotangents = {
        named("output", call, leaf): array
        for call, forced in calls.items() if forced is not None
        for leaf, array in forced.cotangents.items()
    }  # fmt: skip

    # All numbers are arguments: XLA would take those of a closure, the weights, into its program.
    def step(given: Any, inputs: Any, parameters: Any, cotangents: Any) -> Arrays:
        outputs, vjp = jax.vjp(lambda forced: watched(inputs, parameters, {}, forced)[1].alone, given)
        pulled = {
            name: jnp.asarray(cotangents[name], x.dtype)
            if name in cotangents and cotangents[name].shape == x.shape
            else jnp.zeros(x.shape, x.dtype)
            for name, x in outputs.items()
        }
        (gradients,) = vjp(pulled)
        return outputs | {
            named("dinput", call, leaf): x for call, leaves in gradients.items() for leaf, x in leaves.items()
        }

    results: Arrays = jax.jit(step)(given, inputs, parameters, cotangents)
    return results


def _mapped(function: Callable[[int, jax.Array], jax.Array], value: Any) -> Any:
    """The same structure with other real arrays, which are counted; what is one array stays one."""
    done: dict[int, tuple[Any, jax.Array]] = {}

    def once(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if id(leaf) not in done:
            done[id(leaf)] = leaf, function(len(done), leaf)
        return done[id(leaf)][1]

    return jax.tree.map(once, value, is_leaf=lambda leaf: isinstance(leaf, nnx.Pytree))


def _kind(module: Any) -> str:
    cls = type(module)
    for place in ("nnx", "linen"):
        if cls.__module__.startswith(f"flax.{place}"):
            return f"{place}.{cls.__name__}"
    return cls.__name__
