"""Many devices: a call whose arrays are cut along the axes of a `jax.sharding.Mesh` (`attend(..., sharding=)`).

    of          the query's sharding, given or in its type -> `Cut`, checked
    run         the whole arrays -> jax.shard_map -> what each device does with its part
    on_device   one device's part: by itself where batch and heads are cut, as a ring where the length is

Batch and heads need no communication, whatever the implementation. Which weights dropout drops goes by their place in
the whole (S6), so it does not depend on the devices. Inside a caller's own `jax.shard_map` the arrays are a device's
part already, and `on_device` is all that is done.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from attend_jax import dispatch, ring, stacks
from attend_jax.problem import Operands, Problem, Result
from attend_jax.validation import LAYOUTS, one_of

Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Which axes of the mesh cut which axis of the arrays, and in how many parts: (names, parts) each.

    `manual`: the arrays are one device's part, inside `jax.shard_map`. `explicit`: their types say how they are cut.
    `mesh` is None where it is that of the context.
    """

    batch: tuple[Names, int]
    heads: tuple[Names, int]
    length: tuple[Names, int]
    manual: bool
    explicit: bool = False
    mesh: Mesh | AbstractMesh | None = None

    @property
    def names(self) -> Names:
        return self.batch[0] + self.heads[0] + self.length[0]

    @property
    def columns(self) -> int:
        """Of bias and mask in keys that a device holds: their columns are those of the whole."""
        return self.length[1] if self.manual else 1


def of(query: Any, sharding: Any, layout: str) -> Cut | None:
    """How a call is cut; None for not at all. The mesh is that of a NamedSharding, of `jax.set_mesh` or of the
    surrounding `jax.shard_map`.

    Raises:
      TypeError, ValueError: no sharding, no mesh, an axis that the mesh does not have or that cannot be cut.
    """
    one_of("layout", layout, LAYOUTS)
    mesh, own = jax.sharding.get_abstract_mesh(), None
    if isinstance(sharding, NamedSharding):
        mesh, own, sharding = sharding.mesh.abstract_mesh, sharding.mesh, sharding.spec
    if sharding is None:
        sharding = _in_type(query, mesh)
        if sharding is None:
            return None
    if not isinstance(sharding, PartitionSpec):
        raise TypeError(
            "`sharding` must be the jax.sharding.NamedSharding of query, or its PartitionSpec where the mesh is that "
            f"of jax.set_mesh; got {type(sharding).__name__}."
        )
    if mesh.empty:
        raise ValueError(
            f"`sharding` needs a mesh and there is none; got {sharding}. Pass a jax.sharding.NamedSharding, or call "
            "inside `with jax.set_mesh(mesh):` or jax.shard_map."
        )
    axes = dict(zip(layout, _parts(sharding, mesh), strict=True))
    if axes["d"][0]:
        raise ValueError(f"`sharding` must leave the last axis whole, that of the features; got {sharding}.")
    batch, heads, length = axes["b"], axes["h"], axes["n"]
    names = batch[0] + heads[0] + length[0]
    types = {mesh.axis_types[mesh.axis_names.index(name)] for name in names}
    if not names:
        return None
    if AxisType.Manual in types and len(types) > 1:
        manual = [name for name in names if name in mesh.manual_axes]
        raise ValueError(
            f"`sharding` must name axes of jax.shard_map only, or none; got {sharding}, of which {', '.join(manual)} "
            f"belong{'s' if len(manual) == 1 else ''} to jax.shard_map."
        )
    return Cut(batch, heads, length, AxisType.Manual in types, AxisType.Explicit in types, own)


def _in_type(query: Any, mesh: Any) -> PartitionSpec | None:
    """What an array's own type says, which it does along the mesh's explicit axes."""
    if mesh.empty or AxisType.Explicit not in mesh.axis_types or isinstance(query, jax.ShapeDtypeStruct):
        return None
    spec = getattr(getattr(jax.typeof(query), "sharding", None), "spec", None)
    return spec if spec is not None and any(entry is not None for entry in spec) else None


def _parts(sharding: PartitionSpec, mesh: Any) -> list[tuple[Names, int]]:
    """For each of the four axes the mesh axes that cut it and the number of parts."""
    entries = [*sharding, *(None,) * (4 - len(sharding))]
    if len(entries) != 4:
        raise ValueError(f"`sharding` must have an entry for each of query's 4 axes at most; got {sharding}.")
    found = []
    for entry in entries:
        names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for name in names:
            if name not in mesh.axis_names:
                raise ValueError(
                    f"`sharding` names the mesh axis {name!r}, which does not exist; the mesh has "
                    f"{', '.join(map(repr, mesh.axis_names))}."
                )
        found.append((names, math.prod(mesh.shape[name] for name in names)))
    return found


def check(problem: Problem, cut: Cut, implementation: str) -> None:
    """Raise ValueError where the arrays cannot be cut like that, or not be computed like that."""
    if cut.length[1] > 1 and implementation not in ("auto", "blockwise"):
        raise dispatch.ImplementationRefused(
            f"implementation={implementation!r} cannot do this: the length is cut along the mesh axis "
            f"{_said(cut.length)}, and only blocks go round a ring. Use implementation='auto' or 'blockwise'."
        )
    if cut.manual:
        return
    sizes = [
        ("batch", problem.batch, cut.batch),
        ("heads", problem.heads, cut.heads),
        ("query's length", problem.q_len, cut.length),
        ("key's length", problem.kv_len, cut.length),
    ]
    if problem.kv_heads != 1:
        sizes.append(("key's heads", problem.kv_heads, cut.heads))
    for what, size, parts in sizes:
        if size % parts[1]:
            raise ValueError(
                f"the mesh axis {_said(parts)} must divide {what}; got {size}, which {parts[1]} devices cannot share "
                "equally. Pad the arrays, with a `mask` over the keys, or cut along another axis."
            )


def _said(parts: tuple[Names, int]) -> str:
    return f"{' x '.join(map(repr, parts[0]))} of {parts[1]}"


def explain(problem: Problem, implementation: str, cut: Cut) -> dispatch.Explanation:
    """As `dispatch.explain`, of what one device does."""
    check(problem, cut, implementation)
    own = problem if cut.manual else part(problem, cut)
    if cut.length[1] == 1:
        return dispatch.explain(own, implementation)
    others = {row.name: "does not go round a ring" for row in dispatch.TABLE if row.name != "blockwise"}
    return dispatch.Explanation("blockwise", f"in a ring along the mesh axis {_said(cut.length)}", others)


def run(problem: Problem, operands: Operands, implementation: str, cut: Cut) -> Result:
    check(problem, cut, implementation)
    if cut.manual:
        return on_device(problem, operands, implementation, cut)
    with stacks.reverse_mode_only():
        return _cut_up(problem, operands, implementation, cut)


# Not every mesh can be shared with the compiler outside jit (jax 0.10.2).
@functools.partial(jax.jit, static_argnums=(0, 2, 3), inline=True)
def _cut_up(problem: Problem, operands: Operands, implementation: str, cut: Cut) -> Result:
    specs = _specs(problem, operands, cut)
    if cut.explicit:
        place = functools.partial(NamedSharding, cut.mesh) if cut.mesh is not None else lambda spec: spec
        operands = jax.tree.map(lambda array, spec: jax.sharding.reshard(array, place(spec)), operands, specs)
    logsumexp = PartitionSpec(cut.batch[0], cut.heads[0], cut.length[0]) if problem.return_logsumexp else None
    out_specs: Any = Result(specs.query, logsumexp)  # type: ignore[arg-type]
    return jax.shard_map(
        functools.partial(on_device, part(problem, cut), implementation=implementation, cut=cut),
        mesh=cut.mesh,
        in_specs=(specs,),
        out_specs=out_specs,
        axis_names=set(cut.names),
        check_vma=False,  # Pallas takes no part in it
    )(operands)


def part(problem: Problem, cut: Cut) -> Problem:
    """What one device sees of a problem."""
    return dataclasses.replace(
        problem,
        batch=problem.batch // cut.batch[1],
        heads=problem.heads // cut.heads[1],
        kv_heads=problem.kv_heads // (cut.heads[1] if problem.kv_heads != 1 else 1),
        q_len=problem.q_len // cut.length[1],
        kv_len=problem.kv_len // cut.length[1],
        bias_shape=_cut_shape(problem.bias_shape, cut),
        mask_shape=_cut_shape(problem.mask_shape, cut),
    )


def _cut_shape(shape: tuple[int, ...] | None, cut: Cut) -> tuple[int, ...] | None:
    if shape is None:
        return None
    parts = (cut.batch[1], cut.heads[1], cut.length[1], 1)
    return tuple(size if size == 1 else size // by for size, by in zip(shape, parts, strict=True))


def _specs(problem: Problem, operands: Operands, cut: Cut) -> Any:
    """For each operand its PartitionSpec. Columns of bias and mask stay whole: a device meets all keys in turn."""
    order = {"b": cut.batch[0], "h": cut.heads[0], "n": cut.length[0], "d": ()}

    def features(heads: Names) -> PartitionSpec:
        return PartitionSpec(*(heads if axis == "h" else order[axis] for axis in problem.layout))

    def scores(array: Any) -> PartitionSpec | None:
        if array is None:
            return None
        axes = zip(array.shape, (cut.batch[0], cut.heads[0], cut.length[0], ()), strict=True)
        return PartitionSpec(*(() if size == 1 else names for size, names in axes))

    key = features(cut.heads[0] if problem.kv_heads != 1 else ())
    whole = PartitionSpec()
    specs: dict[str, Any] = {"query": features(cut.heads[0]), "key": key, "value": key}
    specs |= {name: scores(getattr(operands, name)) for name in ("bias", "mask", "dropout_mask")}
    specs |= {name: None if getattr(operands, name) is None else whole for name in ("scale", "dropout_rng")}
    return Operands(**specs)


def on_device(problem: Problem, operands: Operands, implementation: str, cut: Cut) -> Result:
    """One device's part, inside `jax.shard_map`."""
    if operands.dropout_rng is not None:
        first = (jax.lax.axis_index(names) if names else 0 for names, _ in (cut.batch, cut.heads))
        batch, head = (index * size for index, size in zip(first, problem.scores_shape[:2], strict=True))
        operands = operands._replace(origin=(jnp.uint32(batch), jnp.uint32(head)))
    names, devices = cut.length
    if devices == 1:
        return dispatch.run(problem, operands, implementation)
    return dispatch.on_each_platform(problem, operands, lambda here: functools.partial(ring.run, here, names, devices))
