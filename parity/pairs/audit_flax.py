"""The Flax side's settings, in the words of the audit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.extend.core import Literal, jaxprs_in_params

from parity import tensors
from parity.pairs.audit import CANNOT_TELL, Audited
from parity.pairs.cases import cases
from parity.pairs.flax_side import Made, called, environment
from parity.pairs.load import load
from parity.pairs.messages import PairSide
from parity.pairs.pair import takes_dtype

_TRANSPOSED = (nnx.ConvTranspose, linen.ConvTranspose)
_BATCH_NORMS = (nnx.BatchNorm, linen.BatchNorm)
_GROUPED = (nnx.GroupNorm, linen.GroupNorm)
# jax_default_matmul_precision -> what products of float32 are made of; None is up to the device.
_PRODUCTS = {
    "highest": "float32", "float32": "float32", "high": "TF32", "tensorfloat32": "TF32", "default": "TF32",
    "fastest": "bfloat16", "bfloat16": "bfloat16",
}  # fmt: skip


def examine(side: PairSide) -> Audited:
    """What the module and the process are set to, once the user's file has been imported and the module made."""
    modules: dict[str, Any] = {}

    def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
        if context.module.scope is not None:
            # Its settings as they are now; it lives no longer than this trace.
            modules.setdefault(".".join(context.module.path), context.module)
        return call(*args, **kwargs)

    pair = load(side.pair)
    with linen.intercept_methods(watch):
        made = Made(pair, side)
    if isinstance(made.module, nnx.Module):
        nodes = nnx.iter_graph(made.module)
        modules = {".".join(map(str, path)): node for path, node in nodes if isinstance(node, nnx.Module)}
    of_layers = {path: dict(_layer(module, takes_dtype(pair.flax))) for path, module in modules.items()}
    layers, _ = made.described()
    functions = dict(_functions([*modules.values()])) | {"GELU": _gelus(made, side)}
    return Audited(environment(), layers, _process(), of_layers, functions)


def _process() -> dict[str, str]:
    asked = getattr(jax.config, "jax_default_matmul_precision", None)
    products = _PRODUCTS.get(str(asked), str(asked)) if asked is not None else "TF32"
    products = "float32" if jax.default_backend() == "cpu" else products  # where there is nothing else
    halved = jax.jit(lambda x: x * 0.5)(jnp.full((64,), 1e-38, jnp.float32))
    return {
        "float32 products": products,
        "float32 convolutions": products,
        "default real dtype": str(jnp.result_type(float)),
        "subnormal numbers": "kept" if float(halved[0]) else "become zero",
        "16-bit accumulation": "float32",
    }


def _layer(module: Any, told: bool) -> Iterator[tuple[str, str]]:
    dtype = getattr(module, "dtype", None)
    if dtype is not None and not told:
        yield "computes in", str(jnp.dtype(dtype))
        if dtype == jnp.float32:
            yield "computes in, in 16 bits", "float32"
    if getattr(module, "precision", None) is not None:
        yield "precision", str(module.precision)
    if isinstance(getattr(module, "epsilon", None), float):
        yield "epsilon", f"{module.epsilon:.6g}"
        if getattr(module, "use_fast_variance", False):
            yield "variance", "mean of squares less the mean squared"
    if isinstance(module, _BATCH_NORMS):
        yield "momentum", f"{1 - module.momentum:.6g} of the batch"
        told_then = module.use_running_average
        yield "statistics in evaluation", CANNOT_TELL if told_then is None else ("of the batch", "running")[told_then]
        yield "running variance", "biased"
    if isinstance(module, (nnx.LayerNorm, linen.LayerNorm)):
        axes = module.reduction_axes
        yield "features normalised", str(len(axes) if isinstance(axes, tuple | list) else 1)
    if isinstance(module, _GROUPED) and module.num_groups:
        yield "groups normalised", str(module.num_groups)
    if isinstance(module, (nnx.Conv, linen.Conv, *_TRANSPOSED)):
        yield from _convolution(module)


def _convolution(module: Any) -> Iterator[tuple[str, str]]:
    size = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)

    def each(value: Any) -> tuple[int, ...]:
        return (value or 1,) * len(size) if value is None or isinstance(value, int) else tuple(value)

    strides, dilation = each(module.strides), each(module.kernel_dilation)
    yield "strides", str(strides)
    yield "dilation", str(dilation)
    if not isinstance(module, _TRANSPOSED):
        yield "groups", str(module.feature_group_count)
    reach = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
    padding = module.padding
    around = isinstance(padding, str) and padding == "CIRCULAR"
    yield "padding mode", "circular" if around else "zeros"
    if isinstance(module, _TRANSPOSED):
        yield "padding", _transposed_padding(padding, reach, strides)
    elif padding == "VALID":
        yield "padding", str([(0, 0)] * len(size))
    elif around or (padding == "SAME" and set(strides) == {1}):
        yield "padding", str([(r // 2, r - r // 2) for r in reach])
    elif padding == "CAUSAL":
        yield "padding", str([(r, 0) for r in reach])
    elif isinstance(padding, str):
        yield "padding", f"{padding}: as the input's size and the strides have it"
    else:
        yield "padding", _pairs(padding, len(size))


def _transposed_padding(padding: Any, reach: list[int], strides: tuple[int, ...]) -> str:
    """What jax.lax.conv_transpose makes of it."""
    if padding == "VALID":
        return str([(r, r + max(0, s - r - 1)) for r, s in zip(reach, strides, strict=True)])
    if padding == "SAME":
        pairs = []
        for r, s in zip(reach, strides, strict=True):
            total = r + s - 1
            before = r if s > r else -(-total // 2)
            pairs.append((before, total - before))
        return str(pairs)
    return str(padding) if isinstance(padding, str) else _pairs(padding, len(reach))


def _pairs(padding: Any, axes: int) -> str:
    each = [padding] * axes if isinstance(padding, int) else list(padding)
    return str([(p, p) if isinstance(p, int) else tuple(p) for p in each])


def _functions(modules: list[Any]) -> Iterator[tuple[str, str]]:
    """Of what has no weights."""
    random = [m for m in modules if getattr(m, "deterministic", None) is False]
    yield "training", f"on in {', '.join(dict.fromkeys(type(m).__name__ for m in random))}" if random else "off"
    rates = sorted(float(getattr(m, "rate", getattr(m, "dropout_rate", 0.0)) or 0.0) for m in modules)
    yield "dropout rates", ", ".join(f"{rate:g}" for rate in rates if rate) or "none"
    yield "resizing", CANNOT_TELL


def _gelus(made: Made, side: PairSide) -> str:
    """Which GELUs a call is made of: no attribute says it, its program does."""
    inputs = tensors.make(cases(side.pair, made.pair, ())[0], side.seed)
    if isinstance(made.module, nnx.Module):
        graph, state = nnx.split(made.module)

        def call(state: Any, inputs: Any) -> Any:
            return called(made.pair, False, nnx.merge(graph, state, copy=True), **inputs)
    else:
        state = made.linen_variables

        def call(state: Any, inputs: Any) -> Any:
            streams = {name: jax.random.key(0) for name in ("params", "dropout")}
            return made.module.apply(
                state, rngs=streams, mutable=True, method=functools.partial(called, made.pair, False), **inputs
            )

    try:
        program = jax.make_jaxpr(call)(state, inputs)
    except Exception:  # it cannot be called; that is for a run to say
        return CANNOT_TELL
    return ", ".join(sorted(set(_variants(program.jaxpr)))) or "none"


def _variants(program: Any) -> Iterator[str]:
    """ "exact" for an error function, "tanh" for the constant that only that GELU has."""
    for equation in program.eqns:
        if equation.primitive.name in ("erf", "erfc"):
            yield "exact"
        constants = [x.val for x in equation.invars if isinstance(x, Literal) and np.ndim(x.val) == 0]
        if equation.primitive.name == "mul" and any(abs(float(c) - 0.044715) < 1e-6 for c in constants):
            yield "tanh"
        for inner in jaxprs_in_params(equation.params):
            yield from _variants(inner)
