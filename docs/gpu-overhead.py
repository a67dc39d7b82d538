"""On a GPU: time, custom calls and memory of `attend_jax.attend` against the bare cuDNN call it makes.

python3 docs/gpu-overhead.py
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attend_jax import attend


def milliseconds(function: Any, *arrays: jax.Array) -> float:
    """Median of 7 rounds of 10 calls."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arrays))
    rounds = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(10):
            result = compiled(*arrays)
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / 10)
    return sorted(rounds)[3] * 1e3


def main() -> None:
    rng = np.random.default_rng(0)
    query, key, value, cotangent = (jnp.asarray(rng.standard_normal((4, 4096, 16, 64)), jnp.bfloat16) for _ in range(4))
    for causal in (False, True):

        def ours(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = causal) -> Any:
            return attend(q, k, v, causal=causal, layout="bnhd")

        def bare(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = causal) -> Any:
            return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")

        for name, function in (("attend_jax.attend", ours), ("jax.nn.dot_product_attention", bare)):

            def step(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array, function: Any = function) -> Any:
                output, vjp = jax.vjp(function, q, k, v)
                return output, vjp(g)

            compiled = jax.jit(step).lower(query, key, value, cotangent).compile()
            calls = compiled.as_text().count('custom_call_target="__cudnn')
            print(
                f"causal={causal} {name}: forward {milliseconds(function, query, key, value):.3f} ms, both "
                f"{milliseconds(step, query, key, value, cotangent):.3f} ms, "
                f"{calls} cuDNN calls, "
                f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:.1f} MiB of temporaries"
            )


if __name__ == "__main__":
    main()
