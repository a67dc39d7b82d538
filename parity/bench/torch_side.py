"""The torch side: its contenders, a table; the einsum reference, SDPA by each of its kernels, FlexAttention."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity import worker_torch
from parity.attention import Attention
from parity.bench import inputs as bench_inputs
from parity.bench import memory
from parity.bench.messages import NO_BIAS_GRADIENT, Contender
from parity.bench.rows import BOTH
from parity.bench.worker import TOGETHER, Program, following, in_programs, links
from parity.errors import BadInput

Function = Callable[..., Any]
Build = Callable[[Attention], Function]
Tensors = dict[str, torch.Tensor]

_device = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Entry:
    """`build` makes f(query, key, value, bias) for a row; what may be made beforehand, as a mask, it makes there."""

    contender: Contender
    build: Build


def _einsum(attention: Attention) -> Function:
    """The reference, as it is."""
    from attend_torch import attend

    return functools.partial(attend, causal=attention.corner or False)


def _compiled_einsum(attention: Attention) -> Function:
    return torch.compile(_einsum(attention), dynamic=False)


def _offset(attention: Attention) -> int:
    return attention.kv_len - attention.q_len if attention.corner == "lower_right" else 0


def _allowed(attention: Attention) -> torch.Tensor:
    """True where a query may attend a key, (i j)."""
    ones = torch.ones(attention.q_len, attention.kv_len, dtype=torch.bool, device=_device)
    return ones.tril(_offset(attention))


def _sdpa(backend: SDPBackend | None = None) -> Build:
    """SDPA with one kernel, or with torch's choice. Its own causal is upper-left aligned and takes no bias beside it:
    elsewhere causal is part of the mask."""

    def build(attention: Attention) -> Function:
        own = attention.corner is not None and _offset(attention) == 0 and not attention.bias
        allowed = _allowed(attention) if attention.corner is not None and not own else None

        def call(query: Any, key: Any, value: Any, bias: Any) -> torch.Tensor:
            mask = allowed
            if bias is not None:
                # The fused CPU kernel takes no mask of three axes.
                bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape).to(query.dtype)
                mask = bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)
            with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
                return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=own)

        return call

    return build


def _lower_right(attention: Attention) -> Function:
    """torch's own name for a lower-right causal rectangle, which its fused kernels know."""
    from torch.nn.attention.bias import causal_lower_right

    if attention.corner != "lower_right" or attention.bias or attention.q_len == attention.kv_len:
        raise ValueError("for lower-right causal rectangles without a bias only")
    mask: Any = causal_lower_right(attention.q_len, attention.kv_len)
    return lambda query, key, value, bias: F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _flex(attention: Attention) -> Function:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    offset, block_mask = _offset(attention), None
    if attention.corner is not None:
        block_mask = create_block_mask(
            lambda b, h, i, j: j <= i + offset, None, None, attention.q_len, attention.kv_len, device=str(_device)
        )

    def call(query: Any, key: Any, value: Any, bias: Any) -> torch.Tensor:
        if bias is None:
            return compiled(query, key, value, block_mask=block_mask)
        wide = bias.detach().reshape((1,) * (4 - bias.ndim) + bias.shape)
        per_batch, per_head = wide.shape[0] > 1, wide.shape[1] > 1

        def score_mod(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
            return score + wide[b if per_batch else 0, h if per_head else 0, i, j]

        return compiled(query, key, value, score_mod=score_mod, block_mask=block_mask)

    return call


_peer = functools.partial(Contender, framework="torch")
_ON_GPU = ("gpu",)
TABLE = {
    entry.contender.name: entry
    for entry in (
        Entry(_peer("torch/einsum", quadratic=True), _einsum),
        Entry(_peer("torch/sdpa"), _sdpa()),
        Entry(_peer("torch/sdpa-math", quadratic=True), _sdpa(SDPBackend.MATH)),
        Entry(_peer("torch/sdpa-flash"), _sdpa(SDPBackend.FLASH_ATTENTION)),
        Entry(_peer("torch/sdpa-efficient", devices=_ON_GPU), _sdpa(SDPBackend.EFFICIENT_ATTENTION)),
        Entry(_peer("torch/sdpa-cudnn", devices=_ON_GPU), _sdpa(SDPBackend.CUDNN_ATTENTION)),
        Entry(_peer("torch/sdpa-lower-right", devices=_ON_GPU), _lower_right),
        Entry(_peer("torch/flex", devices=_ON_GPU, bias_gradient=False), _flex),
        Entry(_peer("torch/compiled-einsum", devices=_ON_GPU, quadratic=True), _compiled_einsum),
    )
}


def set_up(device: str | None) -> str:
    """All cores, as JAX takes them, and torch's own defaults elsewhere; say which kind of device it is."""
    global _device
    if device == "gpu" and not torch.cuda.is_available():
        raise BadInput("--device gpu: torch sees no GPU here (torch.cuda.is_available() is False)")
    _device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    worker_torch.use(_device)
    return _kind()


def contenders() -> tuple[Contender, ...]:
    return tuple(entry.contender for entry in TABLE.values())


def environment() -> dict[str, str]:
    return worker_torch.environment()


def inputs(attention: Attention, seed: int) -> list[Tensors]:
    """As many sets of arrays as calls are launched together."""
    made = {name: worker_torch.to_torch(array) for name, array in bench_inputs.make(attention, seed).items()}
    copies = [{name: tensor.clone() for name, tensor in made.items()} for _ in range(TOGETHER[_kind()] - 1)]
    for tensors in (made, *copies):
        for name in bench_inputs.names(attention):
            tensors[name].requires_grad_()
    return [made, *copies]


def _kind() -> str:
    return "gpu" if _device.type == "cuda" else "cpu"


def program(contender: str, attention: Attention, mode: str, given: list[Tensors]) -> Program:
    """The output without a gradient in sight, or output and gradients by torch.autograd.grad."""
    entry = TABLE[contender]
    if _device.type == "cpu" and entry.contender.quadratic:
        memory.check_scores(attention, mode)
    names = bench_inputs.names(attention)
    due = tuple(name for name in names if name != "bias" or entry.contender.bias_gradient)
    call = entry.build(attention)

    def step(arrays: Tensors) -> Tensors:
        tensors = [arrays.get(name) for name in ("query", "key", "value", "bias")]
        if mode != BOTH:
            # A bias that could have a gradient keeps SDPA from its fused CPU kernel even under no_grad.
            with torch.no_grad():
                return {"output": call(*(None if tensor is None else tensor.detach() for tensor in tensors))}
        output = call(*tensors)
        gradients = torch.autograd.grad(output, [arrays[name] for name in due], arrays["cotangent_output"])
        return {"output": output.detach()} | {"d" + name: grad for name, grad in zip(due, gradients, strict=True)}

    def all_of() -> list[Tensors]:
        results = [step(arrays) for arrays in given]
        sets: list[Tensors] = given
        for _ in range(links(attention) - 1):
            sets = [following(arrays, found) for arrays, found in zip(sets, results, strict=True)]
            for arrays in sets:
                for name in names:
                    arrays[name] = arrays[name].detach().requires_grad_()
            results = [step(arrays) for arrays in sets]
        return results

    first = functools.partial(step, given[0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            first()
        except RuntimeError as error:
            # Why a kernel does not take a problem, torch says in warnings.
            reasons = dict.fromkeys(str(warning.message).split(" (Triggered")[0] for warning in said)
            raise RuntimeError("; ".join([str(error).strip().splitlines()[0], *reasons])) from None
    note = NO_BIAS_GRADIENT if "bias" in names and mode == BOTH and not entry.contender.bias_gradient else ""
    run_all: Callable[[], Any] = first
    calls = 1
    if len(given) > 1:
        run_all, calls = _graph(all_of), len(given) * links(attention)
    timed = in_programs(functools.partial(_time, run_all), calls)
    return Program(first, functools.partial(_memory, first), timed, note=note)


def _graph(run: Callable[[], Any]) -> Callable[[], Any]:
    """All its calls as one CUDA graph, torch's fastest form."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as capturing asks for
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def _memory(run: Callable[[], Tensors]) -> tuple[int | None, str]:
    if _device.type == "cpu":
        return memory.rss_peak(run, _size)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    size = _size(run())
    torch.cuda.synchronize()
    return max(torch.cuda.max_memory_allocated() - before - size, 0), "max_memory_allocated"


def _size(results: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in results.values())


def _time(run: Callable[[], Any], calls: int) -> float:
    if _device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    if _device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return worker_torch.to_numpy(tensor).astype(np.float64)


def release() -> None:
    """Give back what the last row took."""
    torch.compiler.reset()
    gc.collect()
    if _device.type == "cuda":
        torch.cuda.empty_cache()
