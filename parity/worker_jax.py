"""The JAX side: NumPy arrays in, NumPy arrays out. The only file of parity that imports JAX and Flax for a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.compare import INFERENCE
from parity.messages import Job, Options
from parity.spec import BadSpec, Interface

# Raised by code that wants numbers where jit has tracers; such a candidate is run without jit.
_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


def set_up(options: Options) -> None:
    """The device, and the compilation cache: compiling takes most of a run's time."""
    if options.device == "gpu" and not _gpus():
        raise BadSpec(f"--device gpu: JAX sees no GPU here, its devices are {jax.devices()}")
    if options.cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", options.cache_dir)
        # Under the default of one second nothing of ours would be kept.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _gpus() -> list[jax.Device]:
    return [device for device in jax.devices() if device.platform == "gpu"]


def environment() -> dict[str, str]:
    versions = {"jax": jax.__version__}
    if importlib.util.find_spec("flax"):
        import flax

        versions["flax"] = flax.__version__
    return versions | {
        "jax device": jax.devices()[0].device_kind,
        "jax_default_matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "jax_enable_x64": str(getattr(jax.config, "jax_enable_x64", None)),
    }


def refuses(target: Any, face: Interface, implementation: str) -> str | None:
    """Why this implementation cannot run here at all, or None. 16-bit inputs, which every implementation takes."""
    try:
        trial(target, face, dtype=jnp.bfloat16, size=64, implementation=implementation)
    except Exception as error:
        return str(error)
    return None


def construct(target: Any, face: Interface, arguments: dict[str, Any], rng: jax.Array | None = None) -> Any:
    """The callable: a class is built with those of dropout, flash and causal that it accepts."""
    if not isinstance(target, type):
        return target
    given = face.defaults(arguments)
    if face.kind == "nnx" and "rngs" in face.constructor:
        from flax import nnx

        given["rngs"] = nnx.Rngs(jax.random.key(0) if rng is None else rng)
    return target(**given)


def _call(
    target: Any,
    face: Interface,
    options: dict[str, Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    *,
    train: bool,
    rng: jax.Array | None,
) -> Any:
    """Build and call the target, in training or evaluation, the way its kind has it."""
    module = construct(target, face, options, rng)
    keywords = keywords | face.flags(train)
    if not train and face.kind == "function":
        keywords = face.without_dropout(keywords)
    if train and rng is not None:
        keywords |= dict.fromkeys(face.rngs, rng)
    if face.kind == "linen":
        return module.apply({}, *args, **keywords, rngs={"dropout": rng} if rng is not None else None)
    if face.kind == "nnx":
        module.train() if train else module.eval()
        if rng is not None and "rngs" in face.call and "rngs" not in face.constructor:
            from flax import nnx

            keywords["rngs"] = nnx.Rngs(dropout=rng)
    return module(*args, **keywords)


def trial(
    target: Any,
    face: Interface,
    heads: tuple[int, int] = (1, 1),
    dtype: Any = jnp.float32,
    size: int = 4,
    **arguments: Any,
) -> np.ndarray:
    """A small call, 2 queries and 3 keys, to see what the target does."""
    rng = np.random.default_rng(0)
    shapes = ((1, heads[0], 2, size), (1, heads[1], 3, size), (1, heads[1], 3, size))
    q, k, v = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    keywords = {
        name: jnp.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in arguments.items()
        if name in face.call
    }

    def call(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        return _call(target, face, arguments, (q, k, v), keywords, train=False, rng=None)

    try:
        output = jax.jit(call)(q, k, v)  # one compilation, where op by op takes one each
    except _NOT_TRACEABLE:
        output = call(q, k, v)
    if not isinstance(output, jax.Array):
        raise TypeError(f"expected a jax.Array, got {type(output).__name__}")
    return np.asarray(output)


def run(target: Any, face: Interface, job: Job) -> dict[str, np.ndarray]:
    """Outputs and gradients of a case; for a dropout case those of a training step, and what dropout.py asks for."""
    if job.key % 32 == 31:
        jax.clear_caches()  # compiled programs pile up, and none is used twice
    if job.case.kind != "dropout":
        return _program(target, face, job, train="dropout_mask" in job.arrays)(None)
    step = _program(target, face, job, train=True)
    arrays = step(jax.random.key(job.seed))
    arrays["output_again"] = step(jax.random.key(job.seed))["output"]
    arrays["output_other"] = step(jax.random.key(job.seed + 1))["output"]
    arrays["output_eval"] = _program(target, face, job, train=False)(None)["output"]
    return arrays


def _program(
    target: Any, face: Interface, job: Job, *, train: bool
) -> Callable[[jax.Array | None], dict[str, np.ndarray]]:
    """The case as one compiled program, a function of the random key."""
    case = job.case
    names = [name.removeprefix("cotangent_") for name in case.named("cotangent")]
    options, static = face.arguments(case, job.implementation)

    def outputs(inputs: dict[str, jax.Array], constants: dict[str, jax.Array]) -> dict[str, jax.Array]:
        arrays = inputs | constants
        keywords = dict(static) | {name: arrays[name] for name in ("bias", "mask", "dropout_mask") if name in arrays}
        args = (arrays["query"], arrays["key"], arrays["value"])
        result = _call(target, face, options, args, keywords, train=train, rng=constants.get("rng"))
        found = dict(zip(names, result if isinstance(result, tuple) else (result,), strict=False))
        for name, output in found.items():
            if not isinstance(output, (jax.Array, np.ndarray)):
                raise TypeError(f"expected {name} to be a jax.Array, got {type(output).__name__}")
        return {name: jnp.asarray(output) for name, output in found.items()}

    def step(inputs: dict[str, jax.Array], constants: dict[str, jax.Array]) -> dict[str, jax.Array]:
        out, vjp = jax.vjp(lambda given: outputs(given, constants), inputs)
        cotangents = {name: constants["cotangent_" + name] for name in out}
        # What cannot be differentiated is left out, and judged as missing.
        if any(out[name].shape != cotangent.shape for name, cotangent in cotangents.items()):
            return out
        (grads,) = vjp({name: cotangent.astype(out[name].dtype) for name, cotangent in cotangents.items()})
        found = out | {"d" + name: grad for name, grad in grads.items()}
        return found | {"output" + INFERENCE: outputs(inputs, constants)["output"]} if case.inference else found

    inputs = {name: jnp.asarray(job.arrays[name]) for name in case.named("input")}
    constants = {name: jnp.asarray(array) for name, array in job.arrays.items() if name not in inputs}
    compiled = jax.jit(step)

    def execute(rng: jax.Array | None) -> dict[str, np.ndarray]:
        given = constants if rng is None else constants | {"rng": rng}
        try:
            result = compiled(inputs, given)
        except _NOT_TRACEABLE:
            result = step(inputs, given)
        return {name: np.asarray(array) for name, array in result.items()}

    return execute
