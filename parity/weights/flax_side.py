"""The Flax side: nnx modules and Linen variables described as layers, their numbers as NumPy arrays, and back.

With `flax_kinds.py` the only file here that imports JAX and Flax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict, freeze, meta

from parity.weights import flax_kinds
from parity.weights.layers import Found, Layer, Tensor, WeightsError, tie

Path = tuple[str, ...]
Kind = tuple[str, flax_kinds.Roles, int | None]


@dataclasses.dataclass(frozen=True)
class Linen:
    """Linen variables, and what is known of the modules that own them: `kinds` by path, in the order of the calls.

    Without `kinds` (variables alone) they are guessed from the names of the parameters; then a kernel's kind is that
    of the torch layer it is paired with, and the order of definition is not known.
    """

    variables: Mapping[str, Any]
    kinds: Mapping[Path, Kind | None] | None = None
    heads: Mapping[Path, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, *args: Any, variables: Mapping[str, Any] | None = None, **kwargs: Any) -> Linen:
        """A module with example inputs, whose shapes count and not the numbers. `variables` are the ones to read or
        to replace; without them those of `init` serve, as shapes.

        >>> model = Linen.of(nn.Dense(7), jnp.ones((2, 5)))
        >>> [layer.shown for layer in describe(model)]
        ['the module itself (linear: kernel (5, 7), bias (7,))']
        """
        kinds: dict[Path, Kind | None] = {}
        heads: dict[Path, int] = {}

        def watch(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            seen = context.module
            if seen.scope is not None:
                kinds.setdefault(tuple(seen.path), flax_kinds.of(seen))
                if isinstance(seen, flax_kinds.ATTENTION):
                    heads[tuple(seen.path)] = seen.num_heads
            return call(*args, **kwargs)

        traced = [jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x for x in args]
        streams = {name: jax.random.key(0) for name in ("params", "dropout")}
        with nn.intercept_methods(watch):
            shapes = jax.eval_shape(lambda: module.init(streams, *traced, **kwargs))
        return cls(shapes if variables is None else variables, kinds, heads)


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A parameter or other array: `why` is set where it may go without a partner, `parameter` where it is trained."""

    value: Any
    key: object
    parameter: bool
    why: str
    write: Callable[[Any], None]


def describe(model: nnx.Module | Linen) -> tuple[Layer, ...]:
    """All Variables, and arrays beside them, as layers, in order of definition.

    >>> model = nnx.Sequential(nnx.Linear(5, 7, rngs=nnx.Rngs(0)), nnx.relu, nnx.LayerNorm(7, rngs=nnx.Rngs(0)))
    >>> [(layer.path, layer.kind) for layer in describe(model)]
    [('layers.0', 'linear'), ('layers.2', 'layer_norm')]
    """
    leaves = _leaves(model)
    kinds, heads = (_nnx_kinds(model), _nnx_heads(model)) if isinstance(model, nnx.Module) else _linen_kinds(model)
    strip = 0 if isinstance(model, nnx.Module) else 1  # Linen's paths begin with the collection
    tensors = {
        path: Tensor(".".join(path), tuple(leaf.value.shape), str(leaf.value.dtype)) for path, leaf in leaves.items()
    }
    below: dict[Path, dict[str, Path]] = {}
    for path in leaves:
        for end in range(strip, len(path)):
            below.setdefault(path[strip:end], {})[".".join(path[end:])] = path
    layers, taken = [], set()
    for scope, kind in kinds.items():
        if kind is None:
            continue
        name, roles, rank = kind
        found = {role: below.get(scope, {}).get(relative) for relative, role in roles.items()}
        own = {role: tensors[path] for role, path in found.items() if path is not None and path not in taken}
        if not own or (rank is not None and len(next(iter(own.values())).shape) != rank):
            continue
        taken |= {path for path in found.values() if path is not None}
        options = {"heads": heads[scope]} if scope in heads else {}
        layers.append(Layer(".".join(scope), name, own, options))
    for path, leaf in leaves.items():
        if path not in taken:
            kind_name = "parameter" if leaf.parameter else "buffer"
            layers.append(Layer(".".join(path[strip:]), kind_name, {"value": tensors[path]}, optional=leaf.why))
    keys: dict[object, int] = {}
    storages = tuple(
        Found(tensors[path].path, tensors[path].shape, tensors[path].dtype, keys.setdefault(leaf.key, len(keys)))
        for path, leaf in leaves.items()
    )
    return tie(tuple(layers), storages)


def arrays(model: nnx.Module | Linen) -> dict[str, np.ndarray]:
    """All arrays under all their names; random keys are no weights and left out. Raises for a model of shapes only."""
    copies: dict[object, np.ndarray] = {}
    for path, leaf in _leaves(model).items():
        if isinstance(leaf.value, jax.ShapeDtypeStruct):
            raise WeightsError(
                f"`{'.'.join(path)}` has a shape but no numbers: expected initialised weights, as `Linen.of(module, "
                "*inputs, variables=module.init(key, *inputs))` or an nnx module built outside nnx.eval_shape"
            )
    return {
        ".".join(path): copies.setdefault(leaf.key, np.asarray(leaf.value))
        for path, leaf in _leaves(model).items()
        if not _is_key(leaf.value)
    }


def load(model: nnx.Module | Linen, given: Mapping[str, np.ndarray], keep: Collection[str] = ()) -> Any:
    """Write arrays; what `keep` names stays as it is. An nnx module is changed in place and returned; for Linen new
    variables are returned, of the same structure.

    Raises `WeightsError`, before anything is written, for a name, shape or dtype that is not the model's.
    """
    variables = _copied(model.variables) if isinstance(model, Linen) else None
    leaves = {".".join(path): leaf for path, leaf in _leaves(model if variables is None else Linen(variables)).items()}
    if unknown := sorted(given.keys() - leaves.keys()):
        raise WeightsError(f"expected names of the Flax model, got {unknown}")
    if missing := sorted(leaves.keys() - given.keys() - set(keep)):
        raise WeightsError(f"expected an array for every parameter and buffer, got none for {missing}")
    for path, array in given.items():
        value = leaves[path].value
        if (array.shape, str(array.dtype)) != (tuple(value.shape), str(value.dtype)):
            raise WeightsError(
                f"`{path}`: expected shape {tuple(value.shape)} of {value.dtype}, got {array.shape} of {array.dtype}"
            )
    for path, array in given.items():
        value = leaves[path].value
        sharding = value.sharding if isinstance(value, jax.Array) else None
        leaves[path].write(jax.device_put(np.array(array, order="C"), sharding))
    if variables is None or not isinstance(model, Linen):
        return model
    return freeze(variables) if isinstance(model.variables, FrozenDict) else variables


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def _why(value: Any) -> str:
    kind = str(value.dtype)
    return "" if kind.startswith(("float", "bfloat", "complex")) else f"a buffer of {kind}: not trained"


def _leaves(model: nnx.Module | Linen) -> dict[Path, _Leaf]:
    if isinstance(model, Linen):
        return dict(_linen_leaves(model.variables, ()))
    leaves = dict(_nnx_leaves(model, ()))
    missed = [
        path for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable) and not any(leaf.key == id(node) for leaf in leaves.values())
    ]  # fmt: skip
    if missed:
        raise WeightsError(f"expected to find every Variable of the module, missed {missed}: a bug of parity's")
    return leaves


# nnx ------------------------------------------------------------------------------------------------------------------


def _children(node: Any) -> dict[str, Any]:
    """In order of definition: nnx's own walks sort attributes by name."""
    if isinstance(node, nnx.Pytree):
        return {name: child for name, child in vars(node).items() if not name.startswith("_pytree__")}
    if isinstance(node, Mapping):
        return {str(key): child for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        return {str(index): child for index, child in enumerate(node)}
    return {}


def _nodes(node: Any, path: Path, trail: tuple[int, ...] = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Every path to every node and leaf, with its parent; shared nodes several times, cycles once."""
    for name, child in _children(node).items():
        if id(child) not in trail:
            yield (*path, name), child, node
            if not isinstance(child, nnx.Variable):
                yield from _nodes(child, (*path, name), (*trail, id(child)))


def _nnx_leaves(module: nnx.Module, path: Path) -> Iterator[tuple[Path, _Leaf]]:
    for place, node, parent in _nodes(module, path, (id(module),)):
        if isinstance(node, nnx.Variable):
            value = node.get_raw_value()
            if not hasattr(value, "shape"):
                continue
            trained = isinstance(node, nnx.Param)
            yield place, _Leaf(value, id(node), trained, "" if trained else _nnx_why(node, value), node.set_raw_value)
        elif isinstance(node, (jax.Array, np.ndarray)):
            why = "a plain array, no Variable: the constructor makes it"
            yield place, _Leaf(node, id(node), False, why, _setter(parent, place[-1]))


def _nnx_why(variable: nnx.Variable[Any], value: Any) -> str:
    for kind, words in (
        (nnx.RngState, "the state of a random stream, no weight"),
        (nnx.Cache, "a cache that calls fill, no weight"),
        (nnx.Intermediate, "an intermediate that calls fill, no weight"),
    ):
        if isinstance(variable, kind):
            return words
    return _why(value)


def _setter(parent: Any, name: str) -> Callable[[Any], None]:
    def write(value: Any) -> None:
        if isinstance(parent, list):
            parent[int(name)] = value
        elif isinstance(parent, dict):
            parent[name] = value
        elif isinstance(parent, nnx.Pytree):
            setattr(parent, name, value)
        else:
            raise WeightsError(f"`{name}` is in a {type(parent).__name__}, which cannot be changed: make it a Variable")

    return write


def _nnx_kinds(module: nnx.Module) -> dict[Path, Kind | None]:
    nodes = {(): module} | {path: node for path, node, _ in _nodes(module, (), (id(module),))}
    return {path: flax_kinds.of(node) for path, node in nodes.items() if isinstance(node, nnx.Module)}


def _nnx_heads(module: nnx.Module) -> dict[Path, int]:
    nodes = {(): module} | {path: node for path, node, _ in _nodes(module, (), (id(module),))}
    heads: dict[Path, int] = {}
    for path, node in nodes.items():
        if isinstance(node, nnx.MultiHeadAttention):
            heads |= {(*path, "query"): node.num_heads}
            heads |= {(*path, name): node.num_kv_heads for name in ("key", "value")}
    return heads


# Linen ----------------------------------------------------------------------------------------------------------------


def _linen_leaves(node: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, _Leaf]]:
    for name, child in node.items():
        place = (*path, name)
        if isinstance(child, Mapping):
            yield from _linen_leaves(child, place)
            continue
        boxed = isinstance(child, meta.AxisMetadata)
        value = child.unbox() if boxed else child

        def write(new: Any, name: str = name, child: Any = child, boxed: bool = boxed) -> None:
            node[name] = child.replace_boxed(new) if boxed else new  # type: ignore[index]

        why = {
            "params": "",
            "cache": "a cache that calls fill, no weight",
            "intermediates": "an intermediate that calls fill, no weight",
        }.get(place[0])
        yield place, _Leaf(value, place, place[0] == "params", _why(value) if why is None else why, write)


def _copied(node: Any) -> Any:
    return {name: _copied(child) for name, child in node.items()} if isinstance(node, Mapping) else node


def _linen_kinds(model: Linen) -> tuple[dict[Path, Kind | None], dict[Path, int]]:
    heads = {(*path, name): count for path, count in model.heads.items() for name in ("query", "key", "value")}
    if model.kinds is not None:
        return dict(model.kinds), heads
    below: dict[Path, set[str]] = {}
    for path in _leaves(model):
        for end in range(1, len(path)):
            below.setdefault(path[1:end], set()).add(".".join(path[end:]))
    # Outer scopes first, so that a cell is found before the Dense layers that it is made of.
    return {scope: flax_kinds.guess(names) for scope, names in sorted(below.items(), key=lambda item: len(item[0]))}, {}
