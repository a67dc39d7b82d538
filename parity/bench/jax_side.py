"""The JAX side: its contenders, a table; jax.nn's and Flax's attention, and every implementation of ours."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.attention import Attention
from parity.bench import inputs as bench_inputs
from parity.bench import memory
from parity.bench.messages import Contender
from parity.bench.rows import BOTH
from parity.bench.worker import TOGETHER, Program, following, in_programs, links
from parity.errors import BadInput

Function = Callable[..., jax.Array]
Build = Callable[[Attention], Function]


@dataclasses.dataclass(frozen=True)
class Entry:
    """`build` makes f(query, key, value, bias) for a row; what may be made beforehand, as a mask, it makes there."""

    contender: Contender
    build: Build


def _allowed(attention: Attention) -> jax.Array:
    """True where a query may attend a key, (i j)."""
    offset = attention.kv_len - attention.q_len if attention.corner == "lower_right" else 0
    return jnp.tril(jnp.ones((attention.q_len, attention.kv_len), bool), offset)


def _theirs(function: Function) -> Build:
    """A function of jax.nn or Flax as it would be used on (b h n d): between transposes. They have no lower-right
    corner: where it differs from the upper-left one, which they have, it is a mask."""

    def build(attention: Attention) -> Function:
        square = attention.q_len == attention.kv_len
        is_causal = attention.corner is not None and (square or attention.corner == "upper_left")
        mask = _allowed(attention)[None, None] if attention.corner is not None and not is_causal else None

        def call(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None) -> jax.Array:
            if bias is not None:
                bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape).astype(query.dtype)
            query, key, value = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))
            return jnp.swapaxes(function(query, key, value, bias=bias, mask=mask, is_causal=is_causal), 1, 2)

        return call

    return build


def _flax() -> Function:
    from flax import nnx

    return nnx.dot_product_attention


def _ours(implementation: str, layout: str = "bhnd") -> Build:
    def build(attention: Attention) -> Function:
        return functools.partial(
            _attend, implementation=implementation, layout=layout, causal=attention.corner or False
        )

    return build


def _attend(*arrays: Any, **options: Any) -> jax.Array:
    from attend_jax import attend

    return attend(*arrays, **options)


def _nn(implementation: str) -> Function:
    return functools.partial(jax.nn.dot_product_attention, implementation=implementation)


@functools.cache
def table() -> dict[str, Entry]:
    """One line a contender; of ours, whatever the dispatch table holds."""
    from attend_jax import dispatch

    peer = functools.partial(Contender, framework="jax")
    our = functools.partial(Contender, framework="jax", peer=False)
    entries = [
        Entry(peer("jax.nn/xla", quadratic=True), _theirs(_nn("xla"))),
        Entry(peer("jax.nn/cudnn", devices=("gpu",)), _theirs(_nn("cudnn"))),
        Entry(our("ours/auto-bnhd", layout="bnhd"), _ours("auto", "bnhd")),
        *(Entry(our(f"ours/{name}", quadratic=name == "einsum"), _ours(name)) for name in dispatch.NAMES),
    ]
    if importlib.util.find_spec("flax"):
        entries.append(Entry(peer("flax/nnx", quadratic=True), _theirs(_flax())))
    return {entry.contender.name: entry for entry in entries}


def set_up(device: str | None) -> str:
    """Look for the device; say which kind it is."""
    kinds = {found.platform for found in jax.devices()}
    if device == "gpu" and "gpu" not in kinds:
        raise BadInput(f"--device gpu: JAX sees no GPU here, its devices are {jax.devices()}")
    return "gpu" if "gpu" in kinds else "cpu"


def contenders() -> tuple[Contender, ...]:
    return tuple(entry.contender for entry in table().values())


def environment() -> dict[str, str]:
    return {
        "jax": jax.__version__,
        "jax device": jax.devices()[0].device_kind,
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
    }


@dataclasses.dataclass
class Inputs:
    """A row's arrays on the device, made in a layout when they are first asked for."""

    attention: Attention
    arrays: dict[str, np.ndarray]
    made: dict[str, list[dict[str, jax.Array]]]

    def sets(self, layout: str, count: int) -> list[dict[str, jax.Array]]:
        """As many arrays of their own, so that no call finds its inputs in a cache or its result already computed."""
        made = self.made.setdefault(layout, [])
        if not made:
            made.append(
                {
                    name: jnp.asarray(array if layout == "bhnd" or name == "bias" else np.swapaxes(array, 1, 2))
                    for name, array in self.arrays.items()
                }
            )
        while len(made) < count:
            made.append({name: jnp.copy(array) for name, array in made[0].items()})
        return made[:count]


def inputs(attention: Attention, seed: int) -> Inputs:
    return Inputs(attention, bench_inputs.make(attention, seed), {})


def program(contender: str, attention: Attention, mode: str, given: Inputs) -> Program:
    """Compile one program: the output, or output and all gradients as jax.vjp has them."""
    entry = table()[contender]
    call = entry.build(attention)
    on_cpu = jax.default_backend() == "cpu"
    together = TOGETHER["cpu" if on_cpu else "gpu"]
    sets = given.sets(entry.contender.layout, together)
    names = bench_inputs.names(attention)

    def output(differentiated: dict[str, jax.Array]) -> jax.Array:
        bias = differentiated.get("bias")
        return call(differentiated["query"], differentiated["key"], differentiated["value"], bias)

    def step(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        differentiated = {name: arrays[name] for name in names}
        if mode != BOTH:
            return {"output": output(differentiated)}
        out, vjp = jax.vjp(output, differentiated)
        (gradients,) = vjp(arrays["cotangent_output"])
        return {"output": out} | {"d" + name: gradient for name, gradient in gradients.items()}

    runs, note = _explained(entry, attention, sets[0])
    if on_cpu and (entry.contender.quadratic or runs == "einsum"):
        memory.check_scores(attention, mode)
    compiled = jax.jit(step).lower(sets[0]).compile()
    temporaries = int(compiled.memory_analysis().temp_size_in_bytes)  # type: ignore[union-attr]
    if on_cpu:
        memory.check(temporaries)

    def run() -> dict[str, jax.Array]:
        return compiled(sets[0])

    def all_of(sets: list[dict[str, jax.Array]]) -> list[dict[str, jax.Array]]:
        results = [step(arrays) for arrays in sets]
        for _ in range(links(attention) - 1):
            sets = [following(arrays, found) for arrays, found in zip(sets, results, strict=True)]
            results = [step(arrays) for arrays in sets]
        return results

    run_all: Callable[[], Any] = run
    calls = 1
    if together > 1:
        run_all = functools.partial(jax.jit(all_of).lower(sets).compile(), sets)
        calls = together * links(attention)

    def taken() -> tuple[int | None, str]:
        grown, by = memory.rss_peak(lambda: jax.block_until_ready(run()), _size) if on_cpu else (None, "")
        # On a CPU the compiler does not count what the kernels that it calls take: for a fused softmax and product it
        # has 4 MiB where the process takes 254 (jax 0.10.2).
        if grown is not None and grown > temporaries:
            return grown, f"{by}; memory_analysis has {temporaries / 2**20:.1f} MiB"
        return temporaries, "memory_analysis"

    return Program(run, taken, in_programs(functools.partial(_time, run_all), calls), runs, note)


def _size(results: dict[str, jax.Array]) -> int:
    return sum(array.nbytes for array in results.values())


def _time(run: Callable[[], Any], calls: int) -> float:
    # A CPU would run several calls at once, a GPU runs them in order and must not wait for Python in between.
    each = jax.default_backend() == "cpu"
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
        if each:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return time.perf_counter() - start


def _explained(entry: Entry, attention: Attention, arrays: dict[str, jax.Array]) -> tuple[str, str]:
    """Which implementation `auto` chose, and why, in attend_jax's words."""
    if not entry.contender.name.startswith("ours/auto"):
        return "", ""
    from attend_jax import explain

    tensors = (arrays["query"], arrays["key"], arrays["value"], arrays.get("bias"))
    choice = explain(*tensors, causal=attention.corner or False, layout=entry.contender.layout)
    return choice.implementation, str(choice)


def to_numpy(array: jax.Array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def release() -> None:
    """Compiled programs of the last row are of no more use."""
    jax.clear_caches()
