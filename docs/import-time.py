"""What importing attend_jax adds to a process that has Flax: medians of fresh processes.

JAX_PLATFORMS=cpu python docs/import-time.py
"""

import statistics
import subprocess
import sys

PROCESSES = 15
TIMED = """
import time
import {flax}
start = time.perf_counter()
import attend_jax
{use}
print(time.perf_counter() - start)
"""


def main() -> None:
    for flax, use in (("flax", ""), ("flax.linen", "import attend_jax.linen"), ("flax.nnx", "attend_jax.Attend")):
        command = [sys.executable, "-c", TIMED.format(flax=flax, use=use)]
        seconds = [float(subprocess.check_output(command, text=True)) for _ in range(PROCESSES + 1)][1:]
        print(f"beside {flax:10} {use:24} {1e3 * statistics.median(seconds):5.1f} ms, least {1e3 * min(seconds):.1f}")


if __name__ == "__main__":
    main()
