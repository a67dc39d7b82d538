"""Faults that can be planted in any nnx module: a table, one line and one function to add one.

Each is planted in one submodule of those that it fits, the middle one: one wrong layer of many. The parameters keep
their names and shapes, so a faulty module takes the same weights as the right one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Fault:
    """`fits` says of a submodule whether it can be planted there, `plant` does it. A `subtle` one drowns in the
    rounding of 16 bits, as it must."""

    name: str
    fits: Callable[[Any], bool]
    plant: Callable[[Any], None]
    subtle: bool = False


def plantable(module: nnx.Module) -> list[tuple[str, Fault, str]]:
    """(name, fault, path of the submodule) of all that fit somewhere in the module."""
    found = []
    for fault in FAULTS:
        paths = [path for path, sub in _submodules(module).items() if fault.fits(sub)]
        if paths:
            path = paths[len(paths) // 2]
            found.append((f"{fault.name} of {path}", fault, path))
    return found


def plant(module: nnx.Module, name: str) -> None:
    """Plant the fault of that name, as `plantable` has it."""
    for known, fault, path in plantable(module):
        if known == name:
            fault.plant(_submodules(module)[path])
            return
    raise KeyError(name)


def _submodules(module: nnx.Module) -> dict[str, Any]:
    """Those with something to compute, by path; the whole is none of them."""
    return {
        ".".join(map(str, path)): sub
        for path, sub in nnx.iter_modules(module)
        if path and not isinstance(sub, nnx.List | nnx.Dict) and callable(sub)
    }


def _has(name: str) -> Callable[[Any], bool]:
    return lambda sub: isinstance(getattr(sub, name, None), nnx.Variable)


def _square(sub: Any) -> bool:
    kernel = getattr(sub, "kernel", None)
    return isinstance(kernel, nnx.Variable) and kernel.ndim >= 2 and kernel.shape[-1] == kernel.shape[-2]


def _around(sub: Any, change: Callable[[Any, Call, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Have `change(sub, call, args, kwargs)` stand for each call of a submodule."""
    kind: Any = type(sub)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(self, functools.partial(kind.__call__, self), args, kwargs)

    object.__setattr__(sub, "__class__", type(kind)(kind.__name__, (kind,), {"__call__": __call__}))


def _mapped(change: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """The same structure with its real arrays changed."""

    def one(x: Any) -> Any:
        return change(x) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def _of_output(change: Callable[[jax.Array], jax.Array]) -> Callable[[Any], None]:
    return lambda sub: _around(sub, lambda self, call, args, kwargs: _mapped(change, call(*args, **kwargs)))


def _of_inputs(change: Callable[[jax.Array], jax.Array]) -> Callable[[Any], None]:
    return lambda sub: _around(sub, lambda self, call, args, kwargs: call(*_mapped(change, args), **kwargs))


def _of_variable(name: str, change: Callable[[jax.Array], jax.Array]) -> Callable[[Any], None]:
    """The submodule computes with the changed variable, and keeps its own."""

    def changed(self: Any, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = getattr(self, name)
        vars(self)[name] = type(own)(change(own[...]))  # not by setattr, which nnx forbids within a scan
        try:
            return call(*args, **kwargs)
        finally:
            vars(self)[name] = own

    return lambda sub: _around(sub, changed)


def _other_epsilon(sub: Any) -> None:
    sub.epsilon = sub.epsilon / 10 if sub.epsilon >= 1e-5 else sub.epsilon * 10


def _tf32(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)


def _bfloat16(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _double_gradient(x: jax.Array) -> jax.Array:
    return x + (x - jax.lax.stop_gradient(x))


def _always(sub: Any) -> bool:
    del sub
    return True


FAULTS = (
    Fault("another epsilon", lambda sub: isinstance(getattr(sub, "epsilon", None), float), _other_epsilon, subtle=True),
    Fault("no bias", _has("bias"), _of_variable("bias", jnp.zeros_like)),
    Fault("transposed square weight", _square, _of_variable("kernel", lambda x: x.swapaxes(-1, -2))),
    Fault("weight off by 0.1 %", _has("kernel"), _of_variable("kernel", lambda x: x * 1.001), subtle=True),
    Fault("scale of the norm left out", _has("scale"), _of_variable("scale", jnp.ones_like)),
    Fault("TF32 inputs", _has("kernel"), _of_inputs(_tf32), subtle=True),
    Fault("output rounded to bfloat16", _always, _of_output(_bfloat16), subtle=True),
    Fault("output off by 0.1 %", _always, _of_output(lambda x: x * 1.001), subtle=True),
    Fault("output shifted by one", _always, _of_output(lambda x: jnp.roll(x, 1, axis=-2) if x.ndim > 1 else x)),
    Fault("output reversed along its features", _always, _of_output(lambda x: jnp.flip(x, axis=-1))),
    Fault("stopped gradient", _always, _of_output(jax.lax.stop_gradient)),
    Fault("doubled gradient", _always, _of_output(_double_gradient)),
)
