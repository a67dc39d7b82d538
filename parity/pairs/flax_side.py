"""The Flax side of a pair, nnx or Linen: its results with the weights it is given."""

from __future__ import annotations

import dataclasses
import functools
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
from parity.pairs.messages import PairJob, PairSide
from parity.pairs.nested import flatten
from parity.pairs.pair import Pair
from parity.weights import files
from parity.weights import flax_side as weights


def set_up(options: Options) -> None:
    worker_jax.set_up(options)


def environment() -> dict[str, str]:
    return worker_jax.environment()


class Made:
    """The Flax module of a pair, in evaluation."""

    def __init__(self, pair: Pair, side: PairSide) -> None:
        self.pair, self._side = pair, side
        self._variant: str | None = None
        self._set(pair.flax())

    def variants(self) -> tuple[str, ...]:
        return variants.names(self.pair, self.module)

    def _set(self, module: Any) -> None:
        self.module, pair, side = module, self.pair, self._side
        self._held: str | None = None
        if isinstance(self.module, nnx.Module):
            self.module.eval()
            self._model: Any = self.module
        elif isinstance(self.module, linen.Module):
            example = tensors.make(cases(side.pair, pair, ())[0], side.seed)
            inputs = {name: jnp.asarray(array) for name, array in example.items()}
            options: dict[str, Any] = inputs | {"method": functools.partial(_called, pair)}
            self._model = weights.Linen.of(self.module, **options)
        else:
            raise TypeError(f"expected an nnx.Module or a linen.Module, got {type(self.module).__name__}")

    def described(self) -> tuple[tuple[Any, ...], dict[str, np.ndarray]]:
        return weights.describe(self._model), {}

    def run(self, job: PairJob) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Results of the case: outputs, gradients of inputs, and of parameters by their own paths."""
        assert job.weights is not None
        if job.variant != self._variant:
            self._set(variants.make(self.pair, job.variant))
            self._variant = job.variant
        if job.weights != self._held:
            self._take(files.read(job.weights))
            self._held = job.weights
        inputs = {name: jnp.asarray(array) for name, array in job.arrays.items()}
        differentiated = {name: inputs.pop(name) for name in job.case.named("input")}
        call, parameters = self._function(job.case.run_dtype)

        def outputs(differentiated: Any, parameters: Any, constants: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            found = call(parameters, **differentiated, **constants)
            real = {name: x for name, x in found.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
            return real, {name: x for name, x in found.items() if name not in real}

        def step(differentiated: Any, parameters: Any, constants: Any) -> dict[str, Any]:
            function = functools.partial(outputs, constants=constants)
            real, vjp, rest = jax.vjp(function, differentiated, parameters, has_aux=True)
            cotangents = {name: jnp.asarray(job.cotangent(name, x.shape), x.dtype) for name, x in real.items()}
            of_inputs, of_parameters = vjp(cotangents)
            found = real | rest | {"d" + name: gradient for name, gradient in of_inputs.items()}
            return found | {f"d({name})": gradient for name, gradient in of_parameters.items()}

        results = jax.jit(step)(differentiated, parameters, inputs)
        jax.clear_caches()
        return {name: np.asarray(array) for name, array in results.items()}, ()

    def _take(self, given: Mapping[str, np.ndarray]) -> None:
        """The weights that the map has; what it leaves as it is, it has accounted for."""
        known = {tensor.path for layer in weights.describe(self._model) for tensor in layer.tensors.values()}
        loaded = weights.load(self._model, given, keep=known - given.keys())
        if isinstance(self._model, weights.Linen):
            self._model = dataclasses.replace(self._model, variables=loaded)

    def _function(self, dtype: str) -> tuple[Any, dict[str, jax.Array]]:
        """f(parameters by path, **inputs) -> outputs by name, and the parameters; all real numbers in the dtype."""
        if isinstance(self._model, weights.Linen):
            return self._linen(jax.tree.map(functools.partial(_as, dtype=dtype), dict(self._model.variables)))
        graph, state, rest = (*nnx.split(self.module, nnx.Param, ...),)
        rest = jax.tree.map(functools.partial(_as, dtype=dtype), rest)  # torch casts running statistics, too
        flat = dict(nnx.to_flat_state(state))
        paths = {".".join(map(str, path)): path for path in flat}

        def call(parameters: Mapping[str, jax.Array], **inputs: Any) -> dict[str, Any]:
            replaced = {path: flat[path].replace(parameters[name]) for name, path in paths.items()}
            # A copy, or counters of random streams would be changed from within the trace.
            module = nnx.merge(graph, nnx.from_flat_state(replaced), rest, copy=True)
            return _checked(_called(self.pair, module, **inputs))

        return call, {name: _as(flat[path][...], dtype) for name, path in paths.items()}

    def _linen(self, variables: dict[str, Any]) -> tuple[Any, dict[str, jax.Array]]:
        leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
        names = ["params." + ".".join(str(key.key) for key in path) for path, _ in leaves]

        def call(parameters: Mapping[str, jax.Array], **inputs: Any) -> dict[str, Any]:
            params = jax.tree.unflatten(structure, [parameters[name] for name in names])
            bound = self.module.bind(variables | {"params": params})
            return _checked(_called(self.pair, bound, **inputs))

        return call, dict(zip(names, (leaf for _, leaf in leaves), strict=True))


def _called(pair: Pair, module: Any, **inputs: Any) -> Any:
    return module(**inputs) if pair.flax_call is None else pair.flax_call(module, **inputs)


def _as(array: Any, dtype: str) -> Any:
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _checked(value: Any) -> dict[str, Any]:
    outputs = flatten(value)
    for name, output in outputs.items():
        if not isinstance(output, (jax.Array, np.ndarray)):
            raise TypeError(f"expected {name} to be a jax.Array, got {type(output).__name__}")
    return {name: jnp.asarray(output) for name, output in outputs.items()}
