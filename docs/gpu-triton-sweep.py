"""On a GPU: are the Triton kernels right, and which tiles are fastest?

    PYTHONPATH=. python3 docs/gpu-triton-sweep.py [--seconds 240] [--only checks|timings] [--cases GLOB]
                                                  [--kernels forward,dq,dkv,dbias] [--out DIR]

First output and gradients of every feature against the float64 truth, in units of the criterion's width (u*A + eta*A0:
honest runs stay below 5, the largest that was ever measured is 12). Then each kernel by itself over a list of tiles,
and `attend` as a whole, forward and forward+backward, with the best of them against the other implementations. Results
are printed as they come and kept in DIR (or $OUT)/triton-sweep.json; what does not compile is said and passed by.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import functools
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import attend_jax
from attend_jax import dropout, functional
from attend_jax.implementations.triton import backward, dbias, forward, plan, tiles
from attend_jax.implementations.triton.plan import Blocks, Plan
from attend_jax.implementations.triton.tiles import Inputs, Saved
from parity import criterion, tensors
from parity.attention import Attention

KERNELS = ("forward", "dq", "dkv", "dbias")

# Odd lengths, more than one tile each way; every feature at least once, most of them with another.
CHECKS = [
    "plain,i=300,j=413,d=64,e=64,dtype={}",
    "causal,i=300,j=413,kv=2,d=64,e=64,causal=1,layout=bnhd,dtype={}",
    "rows-without-keys,i=413,j=300,d=40,e=72,causal=1,dtype={}",
    "upper-left,i=300,j=413,kv=1,d=64,e=64,causal=upper_left,bias=hij,dtype={}",
    "bias,i=256,j=512,d=64,e=64,bias=hij,dtype={}",
    "bias-per-batch,i=300,j=413,d=128,e=128,bias=bhij,causal=1,lse=1,dtype={}",
    "bias-fp32,i=300,j=413,d=128,e=128,bias=11ij,bias_dtype=float32,mask=b1ij,layout=bnhd,dtype={}",
    "bias-columns,i=300,j=413,d=64,e=64,bias=b11j,causal=1,lse=1,dtype={}",
    "bias-rows,i=300,j=413,d=64,e=64,bias=bhi1,lse=1,dtype={}",
    "mask,i=300,j=413,d=64,e=64,mask=b1ij,values=empty-row,dtype={}",
    "mask-causal,i=300,j=413,kv=2,d=64,e=64,mask=bhij,values=empty-row,causal=1,bias=hij,lse=1,dtype={}",
    "dropout-rng,i=300,j=413,d=64,e=64,dropout=0.3,causal=1,bias=hij,dtype={}",
    "dropout-mask,i=300,j=413,d=64,e=64,dropout=0.3,dtype={}",
    "short,b=8,i=16,j=16,d=64,e=64,bias=hij,dtype={}",
    "one-query,i=1,j=413,d=64,e=64,causal=1,dtype={}",
]


@dataclasses.dataclass(frozen=True)
class Timing:
    name: str
    dtype: str
    shape: tuple[int, int, int, int]
    bias: str | None = None
    causal: bool = False
    group: int = 1
    dropout: float = 0.0
    sweep: bool = True


TIMINGS = [
    Timing("bf16 bias hij", "bfloat16", (4, 16, 2048, 64), "hij"),
    Timing("fp32", "float32", (4, 16, 2048, 64)),
    Timing("bf16 bias hij causal", "bfloat16", (4, 16, 2048, 64), "hij", True),
    Timing("fp32 causal", "float32", (4, 16, 2048, 64), None, True),
    Timing("bf16", "bfloat16", (4, 16, 2048, 64)),
    Timing("bf16 d=128", "bfloat16", (4, 16, 4096, 128)),
    Timing("bf16 bias bhij", "bfloat16", (4, 16, 2048, 64), "bhij", sweep=False),
    Timing("bf16 dropout", "bfloat16", (4, 16, 2048, 64), dropout=0.1, sweep=False),
    Timing("fp32 bias hij", "float32", (4, 16, 2048, 64), "hij"),
    Timing("fp32 d=128", "float32", (4, 16, 2048, 128)),
    Timing("fp32 dropout", "float32", (4, 16, 2048, 64), dropout=0.1, sweep=False),
    Timing("bf16 space", "bfloat16", (64, 8, 1024, 64), sweep=False),
    Timing("bf16 time bias hij", "bfloat16", (8192, 8, 16, 64), "hij", sweep=False),
]

# (queries, keys, warps, stages), by bytes of an element, head size, kernel; the table's own is always added.
SWEEP: dict[tuple[int, int, str], list[tuple[int, int, int, int]]] = {
    (2, 64, "forward"): [
        (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 4, 4), (128, 64, 8, 3), (128, 128, 8, 2), (128, 128, 8, 3),
        (64, 64, 4, 3), (64, 128, 4, 3), (128, 32, 4, 4), (128, 128, 4, 2),
    ],
    (2, 64, "dq"): [
        (128, 64, 8, 2), (128, 64, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 4, 2), (128, 32, 4, 3),
        (64, 128, 4, 2), (128, 128, 8, 2),
    ],
    (2, 64, "dkv"): [
        (64, 128, 8, 2), (64, 128, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (32, 128, 4, 3), (32, 128, 8, 3),
        (128, 128, 8, 2), (64, 128, 4, 2), (128, 64, 4, 2), (32, 64, 4, 3),
    ],
    (2, 64, "dbias"): [
        (128, 64, 8, 2), (128, 64, 4, 2), (64, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 2), (128, 128, 8, 3),
        (64, 128, 4, 2), (128, 64, 8, 3),
    ],
    (2, 128, "forward"): [(128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 64, 4, 2), (64, 64, 4, 3)],
    (2, 128, "dq"): [(64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 3), (64, 64, 4, 3)],
    (2, 128, "dkv"): [(64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2), (32, 64, 4, 3), (64, 64, 4, 3)],
    (4, 64, "forward"): [
        (128, 64, 4, 2), (128, 64, 8, 2), (128, 64, 8, 3), (128, 32, 4, 3), (128, 32, 8, 3), (64, 64, 4, 2),
        (64, 64, 4, 3), (128, 128, 8, 2), (64, 32, 4, 3), (64, 128, 4, 2), (64, 64, 8, 2),
    ],
    (4, 64, "dq"): [
        (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 64, 4, 3), (128, 64, 8, 1), (64, 32, 4, 3),
        (64, 64, 8, 2), (128, 32, 4, 2), (64, 64, 4, 1),
    ],
    (4, 64, "dkv"): [
        (64, 64, 4, 2), (64, 64, 4, 1), (32, 64, 4, 2), (32, 64, 4, 3), (64, 128, 8, 2), (32, 128, 8, 2),
        (32, 128, 8, 3), (64, 128, 8, 1), (32, 128, 4, 2), (64, 64, 8, 2), (32, 64, 8, 2), (16, 128, 8, 3),
    ],
    (4, 128, "forward"): [
        (64, 32, 4, 2), (64, 32, 8, 3), (64, 64, 8, 2), (64, 32, 4, 3), (32, 32, 4, 2), (128, 32, 8, 2), (64, 16, 4, 3),
    ],
    (4, 128, "dq"): [
        (64, 32, 4, 1), (32, 32, 4, 1), (64, 32, 8, 2), (64, 64, 8, 1), (32, 64, 4, 1), (64, 64, 4, 1), (64, 32, 4, 2),
    ],
    (4, 128, "dkv"): [
        (32, 64, 4, 1), (32, 32, 4, 1), (32, 64, 8, 2), (64, 64, 8, 1), (32, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 1),
    ],
    (4, 64, "dbias"): [(64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 2), (32, 32, 4, 2), (64, 64, 8, 2)],
}  # fmt: skip


class Report:
    """What was found, written after each finding: the machine may be taken away."""

    def __init__(self, folder: pathlib.Path, seconds: float) -> None:
        self.path, self.start, self.seconds = folder / "triton-sweep.json", time.monotonic(), seconds
        self.found: dict[str, Any] = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "checks": [],
                                      "kernels": [], "whole": []}  # fmt: skip

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def add(self, kind: str, words: str, **row: Any) -> None:
        print(f"[{time.monotonic() - self.start:5.0f}s] {words}", flush=True)
        self.found[kind].append(row)
        self.path.write_text(json.dumps(self.found, indent=1))


def brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"


def checks(report: Report, pool: concurrent.futures.Executor, cases: str) -> None:
    names = [text.format(dtype) for dtype in ("bfloat16", "float32", "float16") for text in CHECKS]
    work = {}
    for name in names:
        if fnmatch.fnmatch(name, cases):
            work[name] = pool.submit(check, name)
    for name, future in work.items():
        try:
            errors = future.result(timeout=max(1.0, report.left))
        except Exception as error:
            report.add("checks", f"BROKEN {name}: {brief(error)}", name=name, error=str(error)[:4000])
            continue
        worst = max(unit for _, unit in errors.values())
        told = "  ".join(f"{quantity} {most:.1e} ({unit:.2g})" for quantity, (most, unit) in errors.items())
        # `not <=`, so that NaN is wrong.
        report.add("checks", f"{'WRONG ' if not worst <= 5 else 'ok    '} {name}: {told}", name=name, errors=errors)


def check(name: str) -> dict[str, tuple[float, float]]:
    """Of every quantity the largest error, and the largest in units of the width."""
    case = Attention.parse(name).case()
    arrays = tensors.make(case, 0)
    options = {key: value for key, value in case.arguments.items() if key not in ("dropout", "flash")}
    if "dropout_mask" in arrays:
        options["dropout_rate"] = rate = case.arguments["dropout"]
        if name.startswith("dropout-rng"):
            options["dropout_rng"] = key = jax.random.key(1)
            arrays["dropout_mask"] = np.asarray(dropout.full_keep_mask(key, rate, arrays["dropout_mask"].shape))
        else:
            options["dropout_mask"] = arrays["dropout_mask"]
    names = [spec.name for spec in case.tensors if spec.role == "input" and spec.dtype != "bool"]

    @jax.jit
    def run(inputs: dict[str, jax.Array], mask: jax.Array | None, cotangents: Any) -> Any:
        def function(inputs: dict[str, jax.Array]) -> Any:
            return attend_jax.attend(**inputs, mask=mask, implementation="triton", **options)

        outputs, vjp = jax.vjp(function, inputs)
        if "return_logsumexp" not in options:
            return {"output": outputs}, vjp(cotangents[0])[0]
        return dict(zip(("output", "logsumexp"), outputs, strict=True)), vjp(cotangents)[0]

    inputs = {key: jnp.asarray(arrays[key]) for key in names}
    cotangents = tuple(jnp.asarray(array) for key, array in arrays.items() if key.startswith("cotangent"))
    outputs, gradients = run(inputs, arrays.get("mask"), cotangents)
    actual = outputs | {"d" + key: array for key, array in gradients.items()}
    errors = {}
    for quantity, expected in criterion.attention(case, arrays).items():
        found = np.asarray(actual[quantity]).astype(np.float64)
        finite = np.isfinite(expected.truth)
        if not finite.any() or not np.array_equal(found[~finite], expected.truth[~finite]):
            errors[quantity] = (float("nan"), float("nan"))
            continue
        error = np.abs(found[finite] - expected.truth[finite])
        errors[quantity] = (float(error.max()), float((error / expected.width[finite]).max()))
    return errors


def milliseconds(function: Any, *arrays: Any) -> float:
    """Median of 5 rounds of 20 calls, fewer when they are long."""
    jax.block_until_ready(function(*arrays))
    start = time.perf_counter()
    jax.block_until_ready(function(*arrays))
    calls = 20 if time.perf_counter() - start < 5e-3 else 5
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        results = [function(*arrays) for _ in range(calls)]
        jax.block_until_ready(results[-1])
        rounds.append((time.perf_counter() - start) / calls)
        del results
    return sorted(rounds)[2] * 1e3


def compiled(function: Any, *arrays: Any) -> Any:
    return jax.jit(function).lower(*arrays).compile()


def made(case: Timing) -> tuple[Any, jax.Array, dict[str, Any]]:
    """Problem and inputs, the cotangent, and the options of `attend`."""
    batch, heads, length, size = case.shape
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [case.shape, (batch, heads // case.group, length, size), (batch, heads // case.group, length, size)]
    query, key, value, cotangent = (
        jax.random.normal(rng, shape, case.dtype) for rng, shape in zip(keys, [*shapes, case.shape], strict=False)
    )
    bias = None
    if case.bias is not None:
        sizes = dict(zip("bhij", (batch, heads, length, length), strict=True))
        bias = jax.random.normal(keys[4], tuple(sizes[axis] for axis in case.bias), case.dtype)
    options: dict[str, Any] = {"causal": case.causal}
    if case.dropout:
        options |= {"dropout_rate": case.dropout, "dropout_rng": jax.random.key(2)}
    return (query, key, value, bias), cotangent, options


def kernels(report: Report, pool: concurrent.futures.Executor, case: Timing, only: tuple[str, ...]) -> plan.Tuning:
    """Each kernel with each tile; the best of them."""
    arrays, cotangent, options = made(case)
    defaults = {"mask": None, "scale": None, "dropout_rate": 0.0, "dropout_rng": None, "dropout_mask": None,
                "layout": "bhnd", "return_logsumexp": False, "implementation": "triton", "precision": None}  # fmt: skip
    problem, operands = functional._normalise(*arrays, **(defaults | options))
    table = plan.tuning(problem)
    static = Plan(problem, table, False)
    inputs = tiles.parted_inputs(static, Inputs(operands.query, operands.key, operands.value, operands.bias))
    output, logsumexp = compiled(functools.partial(forward.forward, static), inputs)(inputs)
    delta = jnp.sum(output.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=3)
    saved = Saved(tiles.parted(static, cotangent), logsumexp, delta)

    def runs(kernel: str) -> tuple[Any, tuple[Any, ...]]:
        if kernel == "forward":
            return forward.forward, (inputs,)
        return getattr(dbias if kernel == "dbias" else backward, kernel), (inputs, saved)

    def build(kernel: str, tuning: plan.Tuning) -> Any:
        function, given = runs(kernel)
        return compiled(functools.partial(function, dataclasses.replace(static, tuning=tuning)), *given)

    work = {}
    for kernel in (kernel for kernel in KERNELS if kernel in only and (kernel != "dbias" or static.dbias == "tiles")):
        own = getattr(table, kernel)
        rows = [Blocks(*row) for row in SWEEP.get((problem.dtype.itemsize, problem.head_dim, kernel), [])]
        for blocks in dict.fromkeys([own, *rows]):
            tuning = dataclasses.replace(table, **{kernel: blocks})
            work[kernel, blocks, True] = pool.submit(build, kernel, tuning)
        slow = dataclasses.replace(table, fast_exp2=False)
        work[kernel, own, False] = pool.submit(build, kernel, slow)
    best: dict[str, tuple[float, Blocks]] = {}
    for (kernel, blocks, fast), future in work.items():
        if report.left < 20:
            future.cancel()
            continue
        given = runs(kernel)[1]
        words = f"{case.name} {kernel} q={blocks.q} k={blocks.k} warps={blocks.warps} stages={blocks.stages}"
        words += "" if fast else " libdevice's exp2"
        row = {"case": case.name, "kernel": kernel, "blocks": dataclasses.astuple(blocks), "fast_exp2": fast}
        try:
            took = milliseconds(future.result(timeout=max(1.0, report.left)), *given)
        except Exception as error:
            report.add("kernels", f"{words}: {brief(error)}", **row, error=str(error)[:1000])
            continue
        mark = " (table)" if blocks == getattr(table, kernel) and fast else ""
        report.add("kernels", f"{words}: {took:.3f} ms{mark}", **row, ms=took)
        if fast:
            best[kernel] = min(best.get(kernel, (took, blocks)), (took, blocks), key=lambda pair: pair[0])
    for kernel, (took, blocks) in best.items():
        print(f"  best {case.name} {kernel}: {took:.3f} ms {dataclasses.astuple(blocks)}", flush=True)
    return dataclasses.replace(table, **{kernel: blocks for kernel, (_, blocks) in best.items()})


def whole(report: Report, pool: concurrent.futures.Executor, case: Timing, best: plan.Tuning | None) -> None:
    """`attend`, forward and forward+backward, by every implementation."""
    arrays, cotangent, options = made(case)

    def forwards(implementation: str, *arrays: Any) -> Any:
        return attend_jax.attend(*arrays, implementation=implementation, **options)

    def both(implementation: str, cotangent: Any, *arrays: Any) -> Any:
        given = [array for array in arrays if array is not None]
        output, vjp = jax.vjp(functools.partial(forwards, implementation), *given)
        return output, vjp(cotangent)

    def build(implementation: str) -> tuple[Any, Any]:
        return (compiled(functools.partial(forwards, implementation), *arrays),
                compiled(functools.partial(both, implementation), cotangent, *arrays))  # fmt: skip

    work = {name: pool.submit(build, name) for name in ("triton", "cudnn", "einsum")}
    concurrent.futures.wait(work.values(), timeout=max(1.0, report.left))
    if best is not None:  # after the others: the tiles are a global while they are traced
        plan.TUNING = best
        work["triton, best tiles"] = pool.submit(build, "triton")
        concurrent.futures.wait(work.values(), timeout=max(1.0, report.left))
        plan.TUNING = None
    for name, future in work.items():
        row = {"case": case.name, "implementation": name}
        try:
            first, second = future.result(timeout=1)
            took = milliseconds(first, *arrays), milliseconds(second, cotangent, *arrays)
        except Exception as error:
            report.add("whole", f"{case.name} {name}: {brief(error)}", **row, error=str(error)[:1000])
            continue
        report.add(
            "whole", f"{case.name} {name}: {took[0]:.3f} | {took[1]:.3f} ms", **row, forward=took[0], both=took[1]
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--only", choices=("checks", "timings"))
    parser.add_argument("--cases", default="*")
    parser.add_argument("--kernels", default=",".join(KERNELS))
    parser.add_argument("--out", default=os.environ.get("OUT", "."))
    options = parser.parse_args()
    report = Report(pathlib.Path(options.out), options.seconds)
    print(attend_jax.__file__, jax.__version__, jax.devices()[0].device_kind)
    pool = concurrent.futures.ThreadPoolExecutor(min(14, os.cpu_count() or 1))
    if options.only != "timings":
        checks(report, pool, options.cases)
    if options.only != "checks":
        for case in TIMINGS:
            if fnmatch.fnmatch(case.name, options.cases) and report.left > 30:
                try:
                    best = kernels(report, pool, case, tuple(options.kernels.split(","))) if case.sweep else None
                    whole(report, pool, case, best)
                except Exception as error:
                    report.add("whole", f"{case.name}: {brief(error)}", case=case.name, error=str(error)[:4000])
    pool.shutdown(wait=False, cancel_futures=True)
    print(f"written to {report.path}", flush=True)
    os._exit(0)  # what is still being compiled is not waited for


if __name__ == "__main__":
    main()
