"""Which implementation runs: what there is, the order in which `auto` tries it, and the explanation."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable

import jax

from attend_jax import private
from attend_jax.implementations import blockwise, cudnn, einsum, tokamax, triton
from attend_jax.problem import Operands, Problem, Result, partitioned


@dataclasses.dataclass(frozen=True)
class Implementation:
    """`platform` is the one it exists on, None for all."""

    name: str
    platform: str | None
    refusal: Callable[[Problem], str | None]
    run: Callable[[Problem, Operands], Result]


TABLE = (
    Implementation("blockwise", None, blockwise.refusal, blockwise.run),
    Implementation("cudnn", "cuda", cudnn.refusal, cudnn.run),
    Implementation("einsum", None, einsum.refusal, einsum.run),
    Implementation("tokamax", "cuda", tokamax.refusal, tokamax.run),
    Implementation("triton", "cuda", triton.refusal, triton.run),
)
NAMES = ("auto", *sorted(row.name for row in TABLE))
_BY_NAME = {row.name: row for row in TABLE}

# Scores beyond this many bytes are never held in memory as a whole, unless einsum is asked for by name.
QUADRATIC_LIMIT = 2**30


def scores_bytes(problem: Problem) -> int:
    size = problem.scores_dtype.itemsize
    for axis in problem.scores_shape:
        size *= axis if isinstance(axis, int) else 1  # a symbolic batch (jax.export): at least one
    return size


def _fits(problem: Problem) -> bool:
    return scores_bytes(problem) <= QUADRATIC_LIMIT


def _short(problem: Problem) -> bool:
    """Short on both sides, or a single query: a matrix-vector product."""
    return max(problem.q_len, problem.kv_len) <= 64 or problem.q_len == 1


def _bare(problem: Problem) -> bool:
    """What cuDNN does without a detour: no bias, mask or log-sum-exp, and no corner but a square's."""
    square = problem.causal is None or problem.q_len == problem.kv_len
    return problem.bias_shape is None and problem.mask_shape is None and square and not problem.return_logsumexp


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of what `auto` tries: on this platform (None: any), for these problems, this implementation."""

    implementation: str
    platform: str | None
    when: Callable[[Problem], bool]
    reason: str


# The first that fits and does not refuse. Measured with `parity bench`; the figures are in docs/performance.md.
CHOICES = (
    Choice("triton", "cuda", lambda p: p.is_16_bit and _short(p) and not partitioned(), "short: reads everything once"),
    Choice("einsum", "cuda", lambda p: _fits(p) and _short(p), "short: one fused pass beats a fused kernel"),
    Choice("cudnn", "cuda", _bare, "16 bits with nothing added: cuDNN's kernel is the fastest"),
    Choice("triton", "cuda", lambda p: not partitioned(), "the fastest there is for this on one GPU"),
    Choice("cudnn", "cuda", lambda p: not p.return_logsumexp, "16 bits: a fused kernel, which JAX knows how to shard"),
    Choice("einsum", "cuda", _fits, "its products use the whole GPU, and the scores fit"),
    Choice("einsum", None, lambda p: _fits(p) and p.kv_len <= 128, "short: the scores stay in the cache"),
    Choice("blockwise", None, lambda p: True, "long: memory linear in the length"),
)


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
    """Run the named implementation, or for "auto" what the table chooses for each platform of this process."""
    if implementation != "auto":
        why_not = _BY_NAME[implementation].refusal(problem)
        if why_not is not None:
            raise ImplementationRefused(
                f"implementation={implementation!r} cannot do this: {why_not}. Use implementation='auto' or 'einsum'."
            )
        if implementation == "einsum" and not _fits(problem):
            warnings.warn(
                f"implementation='einsum' holds scores of shape {problem.scores_shape} in memory, "
                f"{scores_bytes(problem) / 2**30:.1f} GiB, several times when differentiated; "
                "'auto' and 'blockwise' need memory linear in the length.",
                stacklevel=4,  # whoever called attend
            )
    only = None if implementation == "auto" else _BY_NAME[implementation].platform

    def function(here: Problem) -> Callable[[Operands], Result]:
        row = _BY_NAME[choose(here).implementation if implementation == "auto" else implementation]
        return functools.partial(row.run, here)

    return on_each_platform(problem, operands, function, only)


def on_each_platform(
    problem: Problem,
    operands: Operands,
    function: Callable[[Problem], Callable[[Operands], Result]],
    only: str | None = None,
) -> Result:
    """`function` of the problem as it is on a platform, run on the operands.

    The platform is known at lowering only: the same trace may be lowered for a CPU and for a GPU.
    """
    operands = private.aligned(operands)
    branches = {platform: function(on(problem, platform)) for platform in (platforms() if only is None else (only,))}
    if len(branches) == 1:
        return next(iter(branches.values()))(operands)
    default = branches.pop("cpu")
    return jax.lax.platform_dependent(operands, **branches, default=default)


def platforms() -> tuple[str, ...]:
    """Those of this process's devices, as `jax.lax.platform_dependent` names them."""
    return ("cpu", "cuda") if _has_cuda() else (_DEFAULT.get(jax.default_backend(), jax.default_backend()),)


_DEFAULT = {"gpu": "rocm"}


@functools.cache
def _has_cuda() -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def on(problem: Problem, platform: str) -> Problem:
    """The problem as it is lowered for one platform, with the products' precision there.

    fp32 is fp32 everywhere, unless the caller or `jax.default_matmul_precision` says otherwise; split TF32 has its
    accuracy on an NVIDIA GPU, at more speed than the plain products. Three bfloat16 parts (BF16_BF16_F32_X6), as fast
    and with 24 bits instead of 22, are far off in XLA (jaxlib 0.11.2), or raise, where an axis of a product is 1.
    """
    precision = problem.precision
    users = getattr(jax.config, "jax_default_matmul_precision", None)
    if precision is None and users is None and not problem.is_16_bit:
        single = problem.scores_dtype.itemsize == 4 and platform == "cuda"
        precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if single else jax.lax.Precision.HIGHEST
    return dataclasses.replace(problem, platform=platform, precision=precision)


def choose(problem: Problem) -> Choice:
    """The first row of the table that takes the problem on its platform."""
    return next(
        choice
        for choice in CHOICES
        if choice.platform in (None, problem.platform)
        and choice.when(problem)
        and _BY_NAME[choice.implementation].refusal(problem) is None
    )


def explain(problem: Problem, implementation: str) -> Explanation:
    """The same choice as `run`, for the default backend, in words."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    here = on(problem, platform)
    refusals = {row.name: row.refusal(on(problem, row.platform or platform)) for row in TABLE}
    for row in TABLE:
        if refusals[row.name] is None and row.platform not in (None, platform):
            refusals[row.name] = f"exists on {row.platform} only; the default device is {platform}"
    choice = choose(here)
    chosen, reason = choice.implementation, choice.reason
    if implementation != "auto":
        chosen = implementation
        why_not = refusals[implementation]
        reason = "asked for by name" if why_not is None else f"refused: {why_not}"
    others = {name: why or f"able, but not chosen: {_unchosen(here, name)}" for name, why in refusals.items()}
    del others[chosen]
    return Explanation(chosen, reason, others)


def _unchosen(problem: Problem, name: str) -> str:
    """What the table keeps an implementation for."""
    if name == "einsum" and not _fits(problem):
        return f"its scores would take {scores_bytes(problem) / 2**30:.1f} GiB"
    reasons = [row.reason for row in CHOICES if row.implementation == name and row.platform in (None, problem.platform)]
    return f"auto keeps it for other sizes ({'; '.join(reasons)})" if reasons else "measured slower"
