"""The Flax side of a pair, nnx or Linen: its results with the weights it is given."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from parity import tensors, worker_jax
from parity.messages import Options
from parity.pairs import variants
from parity.pairs.cases import cases
from parity.pairs.messages import PairJob, PairSide, random_words
from parity.pairs.nested import flatten
from parity.pairs.pair import Pair, takes_dtype
from parity.pairs.program import Form, Program, build
from parity.spec import EVALUATION, TRAINING
from parity.weights import files
from parity.weights import flax_side as weights

# So many are kept compiled: the variants of one case or two, when they are asked for again with other seeds.
_PROGRAMS = 64


def set_up(options: Options) -> None:
    worker_jax.set_up(options)


def environment() -> dict[str, str]:
    return worker_jax.environment()


class Made:
    """The Flax module of a pair. It stays as it was made, whatever is run: calls are given copies."""

    def __init__(self, pair: Pair, side: PairSide) -> None:
        self.pair, self._side = pair, side
        self._dtype = self._held = ""
        self._variant: str | None = None
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._make("float32", None)

    def variants(self) -> tuple[str, ...]:
        return variants.names(self.pair, self.module)

    def described(self) -> tuple[tuple[Any, ...], dict[str, np.ndarray]]:
        return weights.describe(self._model), {}

    @property
    def linen_variables(self) -> Any:
        """Of a Linen module: shapes, until weights have come."""
        return self._model.variables

    def run(self, job: PairJob) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Results of the case: outputs, gradients of inputs, and, by their own paths, gradients of parameters and in
        training the buffers after the step."""
        program = self._program(job)
        results = program(job)
        if program.draws:
            others = program(job, other_streams=True)
            for name in results:
                if name.startswith("output") and not np.array_equal(results[name], others[name], equal_nan=True):
                    raise ValueError(random_words("flax", job.case.mode, name, self._dropouts()))
        return {name: np.asarray(array) for name, array in results.items()}, ()

    def _program(self, job: PairJob) -> Program:
        """The compiled case, kept for the next seed, for that is most of the work."""
        key = job.variant, job.case.name, job.weights
        if key not in self._programs:
            self.prepare(job)
            form = self.form(job, job.case.mode == "train")
            self._programs[key] = build(dataclasses.replace(form, parameters=self._once(form.parameters)), job)
            if len(self._programs) > _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
        return self._programs[key]

    def _once(self, parameters: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The same numbers, as arrays that another program holds already where they are equal."""
        held = next(iter(self._programs.values())).parameters if self._programs else {}
        return {
            name: held[name] if name in held and _equal(held[name], array) else array
            for name, array in parameters.items()
        }

    def prepare(self, job: Any) -> None:
        """Make the module that the job asks for, with the weights that it names."""
        dtype = job.case.run_dtype if takes_dtype(self.pair.flax) else self._dtype
        if (dtype, job.variant) != (self._dtype, self._variant):
            self._make(dtype, job.variant)
        if job.weights != self._held:
            self._take(files.read(job.weights))
            self._held = job.weights

    def _make(self, dtype: str, variant: str | None) -> None:
        self.module: Any = variants.make(self.pair, variant, getattr(jnp, dtype))
        self._dtype, self._variant, self._held = dtype, variant, ""
        if isinstance(self.module, nnx.Module):
            self.module.eval()
            self._model: Any = self.module
        elif isinstance(self.module, linen.Module):
            example = tensors.make(cases(self._side.pair, self.pair, (dtype,))[0], self._side.seed)
            inputs = {name: jnp.asarray(array) for name, array in example.items()}
            options: dict[str, Any] = inputs | {"method": functools.partial(called, self.pair, False)}
            self._model = weights.Linen.of(self.module, **options)
        else:
            raise TypeError(f"expected an nnx.Module or a linen.Module, got {type(self.module).__name__}")

    def _take(self, given: Mapping[str, np.ndarray]) -> None:
        """The weights that the map has; what it leaves as it is, it has accounted for."""
        found = [tensor for layer in weights.describe(self._model) for tensor in layer.tensors.values()]
        dtypes = {name: tensor.dtype for tensor in found for name in (tensor.path, *tensor.names)}
        # They have been rounded to the dtype of the run, and a module that was told it may hold them in that.
        typed = {name: array.astype(dtypes[name]) for name, array in given.items()}
        loaded = weights.load(self._model, typed, keep=dtypes.keys() - given.keys())
        if isinstance(self._model, weights.Linen):
            self._model = dataclasses.replace(self._model, variables=loaded)

    def form(self, job: Any, train: bool) -> Form:
        """The module as a function, in the dtype of the job's case."""
        return self._linen(job, train) if isinstance(self._model, weights.Linen) else self._nnx(job, train)

    def _nnx(self, job: Any, train: bool) -> Form:
        self.module.train() if train else self.module.eval()
        cast = functools.partial(_as, dtype=job.case.run_dtype)
        graph, state, streams, rest = (*nnx.split(self.module, nnx.Param, nnx.RngState, ...),)
        rest = jax.tree.map(cast, rest)  # torch casts running statistics, too
        flat, buffers = dict(nnx.to_flat_state(state)), _arrays(rest)
        paths = {".".join(map(str, path)): path for path in flat}

        def call(parameters: Mapping[str, jax.Array], streams: Any, **inputs: Any) -> tuple[Any, Any]:
            replaced = {path: flat[path].replace(parameters[name]) for name, path in paths.items()}
            # A copy, or buffers and counters of random streams would be changed from within the trace.
            module = nnx.merge(graph, nnx.from_flat_state(replaced), streams, rest, copy=True)
            found = _checked(called(self.pair, train, module, **inputs))
            state, _, after = nnx.state(module, nnx.Param, nnx.RngState, ...)
            made = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)} ^ set(paths)
            if made:
                raise ValueError(
                    f"the flax module has other parameters after a call than before: {', '.join(sorted(made))}; make "
                    "them in its constructor"
                )
            return found, _after(buffers, _arrays(after))

        def moved(leaf: Any) -> Any:  # its counters, so that it draws other numbers
            return leaf + 1_000_003 if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf

        parameters = {name: cast(flat[path][...]) for name, path in paths.items()}
        return Form(call, parameters, streams, jax.tree.map(moved, streams))

    def _linen(self, job: Any, train: bool) -> Form:
        cast = functools.partial(_as, dtype=job.case.run_dtype)
        variables = jax.tree.map(cast, dict(self._model.variables))
        leaves, structure = jax.tree_util.tree_flatten_with_path(variables.get("params", {}))
        names = ["params." + ".".join(str(key.key) for key in path) for path, _ in leaves]
        rest = {name: collection for name, collection in variables.items() if name != "params"}

        def call(parameters: Mapping[str, jax.Array], streams: Any, **inputs: Any) -> tuple[Any, Any]:
            params = jax.tree.unflatten(structure, [parameters[name] for name in names])
            # Evaluation changes nothing: a module that tries to says so itself.
            bound = self.module.bind(rest | {"params": params}, rngs=streams, mutable=[*rest] if train else False)
            found = _checked(called(self.pair, train, bound, **inputs))
            return found, _after(_linen_arrays(rest), _linen_arrays(bound.variables))

        parameters = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
        # A stream of another name falls back to that of `params`.
        streams = [{name: jax.random.key(seed) for name in ("params", "dropout")} for seed in (0, 1)]
        return Form(call, parameters, *streams)

    def _dropouts(self) -> list[str]:
        if not isinstance(self.module, nnx.Module):
            return []
        rates = [
            (path, getattr(node, "rate", getattr(node, "dropout_rate", 0.0)))
            for path, node in nnx.iter_graph(self.module)
            if isinstance(node, nnx.Module)
        ]
        return [f"`{'.'.join(map(str, path))}` has {rate:g}" for path, rate in rates if rate]


def called(pair: Pair, train: bool, module: Any, **inputs: Any) -> Any:
    """The module's own answer, told whether it is trained in those words that its call knows."""
    function = module if pair.flax_call is None else functools.partial(pair.flax_call, module)
    known = inspect.signature(type(module).__call__ if pair.flax_call is None else pair.flax_call).parameters
    flags = dict.fromkeys(TRAINING, train) | dict.fromkeys((*EVALUATION, "use_running_average"), not train)
    return function(**inputs, **{name: flag for name, flag in flags.items() if name in known and name not in inputs})


def _arrays(state: Any) -> dict[str, Any]:
    """The arrays of an nnx state by path."""
    leaves = [
        (path, leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf)
        for path, leaf in nnx.to_flat_state(state)
    ]
    return {".".join(map(str, path)): leaf for path, leaf in leaves if hasattr(leaf, "dtype")}


def _linen_arrays(variables: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path({name: variables[name] for name in variables if name != "params"})[0]
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def _after(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Buffers as a step leaves them, in the dtype they had: Linen's statistics are of float32 after a step, whatever
    they were before."""
    return {name: jnp.asarray(after[name], before[name].dtype) for name in before if name in after}


def _equal(one: jax.Array, other: jax.Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _as(array: Any, dtype: str) -> Any:
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _checked(value: Any) -> dict[str, Any]:
    outputs = flatten(value)
    for name, output in outputs.items():
        if not isinstance(output, (jax.Array, np.ndarray)):
            raise TypeError(f"expected {name} to be a jax.Array, got {type(output).__name__}")
    return {name: jnp.asarray(output) for name, output in outputs.items()}
