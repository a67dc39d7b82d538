"""On a GPU: time and error of float32 attention by einsum and blockwise, for each way to multiply float32 numbers.

PYTHONPATH=. python3 docs/gpu-precision.py [SHAPE …]        # SHAPE: b,h,n,d

Each call is one of eight in a program, as in `parity bench`, and the ways take turns. The error is the largest
difference of the output from float64, in the first batch and head.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import DotAlgorithmPreset, Precision

from attend_jax import attend

WAYS = {
    "split TF32 (X3)": DotAlgorithmPreset.TF32_TF32_F32_X3,
    "three bfloat16 (X6)": DotAlgorithmPreset.BF16_BF16_F32_X6,
    "three bfloat16 (X9)": DotAlgorithmPreset.BF16_BF16_F32_X9,
    "plain": Precision.HIGHEST,
}
SHAPES = ["8192,8,16,64", "512,8,64,64", "4,16,2048,64", "4,16,1024,256"]
TOGETHER, ROUNDS = 8, 7


def program(implementation: str, way: Any, backward: bool) -> Any:
    def call(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> Any:
        def function(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attend(q, k, v, implementation=implementation, precision=way)

        if not backward:
            return function(q, k, v)
        output, vjp = jax.vjp(function, q, k, v)
        return output, vjp(g)

    return jax.jit(lambda sets: [call(*arrays) for arrays in sets])


def truth(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The output of the first batch and head, in float64."""
    q, k, v = (array[0, 0].astype(np.float64) for array in (q, k, v))
    scores = q @ k.T * q.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def main() -> None:
    print(jax.devices()[0].device_kind, "jax", jax.__version__, "; milliseconds a call, forward | forward and backward")
    for shape in sys.argv[1:] or SHAPES:
        sizes = tuple(int(size) for size in shape.split(","))
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(sizes, dtype=np.float32) for _ in range(4)]
        sets = [[jnp.asarray(array) for array in arrays] for _ in range(TOGETHER)]
        right = truth(*arrays[:3])
        for implementation in ("einsum", "blockwise"):
            ready, errors = {}, {}
            for name, way in WAYS.items():
                for backward in (False, True):
                    try:
                        made = program(implementation, way, backward).lower(sets).compile()
                        result = jax.block_until_ready(made(sets))
                    except Exception as error:  # what the compiler cannot do is said, and the others go on
                        print(f"{shape} {implementation} {name}: {str(error).splitlines()[0][:150]}", flush=True)
                        continue
                    ready[name, backward] = made
                    if not backward:
                        errors[name] = np.abs(np.asarray(result[0][0, 0], np.float64) - right).max()
                    del result
            took = defaultdict(list)
            for _ in range(ROUNDS):
                for key, made in ready.items():
                    start = time.perf_counter()
                    jax.block_until_ready([made(sets) for _ in range(2)])
                    took[key].append((time.perf_counter() - start) / 2 / TOGETHER * 1e3)
            for name in errors:
                forward, both = (np.median(took.get((name, backward), [np.nan])) for backward in (False, True))
                print(
                    f"{shape} {implementation:9} {name:20} {forward:8.3f} | {both:8.3f}  error {errors[name]:.2e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
