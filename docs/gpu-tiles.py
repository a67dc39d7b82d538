"""On a GPU: the time of `attend` by Triton with other tiles for one kernel, measured as `parity bench` measures.

PYTHONPATH=. python3 docs/gpu-tiles.py [--both] ROW KERNEL QUERIES,KEYS,WARPS,STAGES …

ROW is a name of `parity bench`, KERNEL one of forward, dq, dkv, dbias; what the table has is measured first. Whole runs
of a sweep over all kernels: docs/gpu-triton-sweep.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from attend_jax.implementations.triton import plan
from attend_jax.implementations.triton.plan import Blocks
from attend_jax.problem import Problem
from parity.attention import Attention
from parity.bench import jax_side
from parity.bench.rows import BOTH, FORWARD

CALLS, ROUNDS = 64, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--both", action="store_true", help="forward and backward")
    parser.add_argument("row")
    parser.add_argument("kernel", choices=[field.name for field in dataclasses.fields(plan.Tuning)][:4])
    parser.add_argument("tiles", nargs="+")
    asked = parser.parse_args()
    jax_side.set_up(None)
    attention = Attention.parse(asked.row)
    given = jax_side.inputs(attention, 0)
    table = plan.tuning
    for tiles in (None, *asked.tiles):

        def tuning(problem: Problem, tiles: str | None = tiles) -> plan.Tuning:
            own = table(problem)
            return (
                own
                if tiles is None
                else dataclasses.replace(own, **{asked.kernel: Blocks(*map(int, tiles.split(",")))})
            )

        plan.tuning = tuning
        jax.clear_caches()
        program = jax_side.program("ours/triton", attention, BOTH if asked.both else FORWARD, given)
        program.time(CALLS)
        took = statistics.median(program.time(CALLS) / CALLS for _ in range(ROUNDS))
        print(f"{asked.row} {asked.kernel} {tiles or 'as in the table'}: {1e3 * took:.5f} ms", flush=True)


if __name__ == "__main__":
    main()
