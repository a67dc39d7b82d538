"""On a GPU: which kernels torch and `attend_jax` launch for the same attention, and what of a call is kernels.

PYTHONPATH=. python3 docs/gpu-profile.py [--alone] [ROW …]

torch's profiler sees every kernel of its process, JAX's too. For each row (a name of `parity bench`; if none, those in
which cuDNN runs on both sides) and mode: milliseconds a call by the clock, by the kernels, and kernel by kernel. With
`--alone` each call is a program of its own, as `parity bench` does not have it on a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import torch
from torch.profiler import ProfilerActivity, profile

from parity.attention import Attention
from parity.bench import jax_side, torch_side, worker
from parity.bench.rows import MODES

ROWS = (
    "square,b=4,h=16,kv=16,i=4096,j=4096,d=128,e=128,dtype=bfloat16",
    "square,b=4,h=16,kv=16,i=4096,j=4096,d=128,e=128,causal=1,dtype=bfloat16",
    "square,b=4,h=16,kv=16,i=4096,j=4096,d=64,e=64,dtype=bfloat16",
    "space-big,b=64,h=8,kv=8,i=1024,j=1024,d=64,e=64,dtype=bfloat16",
)
SIDES = {"torch/sdpa-cudnn": torch_side, "jax.nn/cudnn": jax_side, "ours/auto": jax_side, "ours/auto-bnhd": jax_side}
CALLS, ROUNDS = 24, 5


def kernels(time_calls: Callable[[int], float]) -> dict[str, tuple[float, float]]:
    """Milliseconds a call, and launches a call, of each kernel."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        time_calls(CALLS)
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for event in seen.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            took, launches = found[event.name]
            found[event.name] = took + event.time_range.elapsed_us() / 1e3 / CALLS, launches + 1 / CALLS
    return dict(found)


def main() -> None:
    rows = [word for word in sys.argv[1:] if word != "--alone"]
    if len(rows) < len(sys.argv) - 1:
        worker.TOGETHER["gpu"] = 1
    for side in (torch_side, jax_side):
        side.set_up("gpu")
    print(torch.cuda.get_device_name(), "cuDNN of torch", torch.backends.cudnn.version())
    for name in rows or ROWS:
        attention = Attention.parse(name)
        given: dict[Any, Any] = {side: side.inputs(attention, 0) for side in (torch_side, jax_side)}
        for mode in MODES:
            programs = {who: side.program(who, attention, mode, given[side]) for who, side in SIDES.items()}
            clock = defaultdict(list)
            for program in programs.values():
                program.time(3)
            for _ in range(ROUNDS):
                for who, program in programs.items():
                    clock[who].append(program.time(CALLS) / CALLS * 1e3)
                    time.sleep(0.005)
            for who, program in programs.items():
                found = kernels(program.time)
                total = sum(took for took, _ in found.values())
                median = sorted(clock[who])[ROUNDS // 2]
                print(f"{name} {mode} {who}: {median:.4f} ms, kernels {total:.4f} ms", flush=True)
                for kernel, (took, launches) in sorted(found.items(), key=lambda pair: -pair[1][0])[:8]:
                    print(f"    {took:.4f} ms {launches:4.1f} x {kernel[:150]}", flush=True)


if __name__ == "__main__":
    main()
