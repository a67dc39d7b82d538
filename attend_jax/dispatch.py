"""Which implementation runs: a table, the choice, and its explanation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from attend_jax.implementations import cudnn, einsum, triton
from attend_jax.problem import Operands, Problem, Result


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A row of the table. `platform` is the one it exists on, None for all."""

    name: str
    platform: str | None
    refusal: Callable[[Problem], str | None]
    run: Callable[[Problem, Operands], Result]


# `auto` takes the first that does not refuse; einsum never does, so what comes after it runs by name only.
TABLE = (
    Implementation("cudnn", "cuda", cudnn.refusal, cudnn.run),
    Implementation("einsum", None, einsum.refusal, einsum.run),
    Implementation("triton", "cuda", triton.refusal, triton.run),
)
NAMES = ("auto", *sorted(row.name for row in TABLE))
_BY_NAME = {row.name: row for row in TABLE}


class ImplementationRefused(ValueError):
    """An implementation that was asked for by name cannot do the problem; the message says why."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `attend` does with a problem: which implementation, why, and for each other why not."""

    implementation: str
    reason: str
    others: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.implementation} runs: {self.reason}", *(f"  {name}: {why}" for name, why in self.others.items())]
        )


def run(problem: Problem, operands: Operands, implementation: str) -> Result:
    """Run the named implementation, or for "auto" the first of the table that takes the problem."""
    if implementation != "auto":
        row = _BY_NAME[implementation]
        why_not = row.refusal(problem)
        if why_not is not None:
            raise ImplementationRefused(
                f"implementation={implementation!r} cannot do this: {why_not}. Use implementation='auto' or 'einsum'."
            )
        return row.run(problem, operands)
    rows = [row for row in TABLE if row.refusal(problem) is None]
    everywhere = next(row for row in rows if row.platform is None)
    if rows[0] is everywhere:
        return everywhere.run(problem, operands)
    # The platform is known at lowering only: the same trace may be lowered for a CPU and for a GPU.
    before = reversed(rows[: rows.index(everywhere)])
    special = {row.platform: _bind(row, problem) for row in before if row.platform is not None}
    return jax.lax.platform_dependent(operands, **special, default=_bind(everywhere, problem))


def _bind(row: Implementation, problem: Problem) -> Callable[[Operands], Result]:
    return lambda operands: row.run(problem, operands)


def explain(problem: Problem, implementation: str) -> Explanation:
    """The same choice as `run`, for the default backend, in words."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    refusals = {row.name: row.refusal(problem) for row in TABLE}
    for row in TABLE:
        if refusals[row.name] is None and row.platform not in (None, platform):
            refusals[row.name] = f"exists on {row.platform} only; the default device is {platform}"
    others = {name: why or "able, but comes later in the table" for name, why in refusals.items()}
    if implementation != "auto":
        why_not = refusals[implementation]
        del others[implementation]
        return Explanation(implementation, "asked for by name" if why_not is None else f"refused: {why_not}", others)
    chosen = next(row.name for row in TABLE if refusals[row.name] is None)
    del others[chosen]
    return Explanation(chosen, f"the first of {', '.join(row.name for row in TABLE)} that can do this", others)
