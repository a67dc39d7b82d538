"""The step of a Flax module that a case asks for, compiled: forward, backward, and in training its buffers after."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from parity.pairs.messages import PairJob


@dataclasses.dataclass(frozen=True)
class Form:
    """A module as a pure function: f(parameters by path, streams, **inputs) -> outputs by name, and buffers by path.

    All real numbers are in the dtype of the run. With `other_streams` a module that draws from them gives others.
    """

    call: Any
    parameters: dict[str, jax.Array]
    streams: Any
    other_streams: Any


@dataclasses.dataclass(frozen=True)
class Program:
    """What is kept of a form once it is compiled: not the module, only its weights. `outputs` have the real outputs'
    shapes and dtypes."""

    step: Any
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    parameters: dict[str, jax.Array]
    streams: Any
    other_streams: Any

    def __call__(self, job: PairJob, *, other_streams: bool = False) -> dict[str, jax.Array]:
        """Outputs, the gradients of inputs and, by their own paths, of parameters; in training the buffers."""
        streams = self.other_streams if other_streams else self.streams
        cotangents = {name: jnp.asarray(job.cotangent(name, x.shape), x.dtype) for name, x in self.outputs.items()}
        found: dict[str, jax.Array] = self.step(*_inputs(job), self.parameters, streams, cotangents)
        return found

    @property
    def draws(self) -> bool:
        return bool(jax.tree.leaves(self.streams))


def build(form: Form, job: PairJob) -> Program:
    """Compile a form for all jobs with that case."""
    train = job.case.mode == "train"

    # Traced once, though its outputs' shapes are wanted before its gradients are: jit remembers.
    @jax.jit
    def outputs(differentiated: Any, constants: Any, parameters: Any, streams: Any) -> tuple[Any, Any]:
        found, buffers = form.call(parameters, streams, **differentiated, **constants)
        real = {name: x for name, x in found.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
        whole = {name: x for name, x in found.items() if name not in real}
        return real, whole | ({f"buffer({name})": x for name, x in buffers.items()} if train else {})

    def step(differentiated: Any, constants: Any, parameters: Any, streams: Any, cotangents: Any) -> dict[str, Any]:
        function = functools.partial(_called, outputs, constants, streams)
        real, vjp, rest = jax.vjp(function, differentiated, parameters, has_aux=True)
        of_inputs, of_parameters = vjp(cotangents)
        found = real | rest | {"d" + name: gradient for name, gradient in of_inputs.items()}
        return found | {f"d({name})": gradient for name, gradient in of_parameters.items()}

    with warnings.catch_warnings():
        # nnx.BatchNorm writes float32 statistics where this run has 16 bits.
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        given = *_inputs(job), form.parameters, form.streams
        real, _ = jax.eval_shape(outputs, *given)
        compiled = jax.jit(step).lower(*given, real).compile()
    jax.clear_caches()  # which hold the module, and grow with every case
    return Program(compiled, real, form.parameters, form.streams, form.other_streams)


def _called(outputs: Any, constants: Any, streams: Any, differentiated: Any, parameters: Any) -> Any:
    return outputs(differentiated, constants, parameters, streams)


def _inputs(job: PairJob) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Those that get a gradient, and the others."""
    inputs = {name: jnp.asarray(array) for name, array in job.arrays.items()}
    return {name: inputs.pop(name) for name in job.case.named("input")}, inputs
