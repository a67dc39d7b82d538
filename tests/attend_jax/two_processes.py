"""One of two processes of two devices each, a ring of four: attention and its gradients as on one device.

python two_processes.py FOLDER NUMBER     the folder is empty, and the same for both
"""

from __future__ import annotations

import functools
import socket
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from attend_jax import attend

NAMES = ("output", "dquery", "dkey", "dvalue", "dbias", "dropped")


def connect(folder: Path, number: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    if number == 0:  # a port that is free now
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "port.part").write_text(str(port))
        (folder / "port.part").rename(folder / "port")
    while not (folder / "port").exists():
        time.sleep(0.05)
    jax.distributed.initialize(f"127.0.0.1:{(folder / 'port').read_text()}", num_processes=2, process_id=number)
    assert jax.device_count() == 4
    assert len(jax.local_devices()) == 2


def step(query, key, value, bias, **options):
    output, vjp = jax.vjp(functools.partial(attend, causal=True, **options), query, key, value, bias)
    dropped = attend(query, key, value, causal=True, dropout_rate=0.4, dropout_rng=jax.random.key(1), **options)
    return output, *vjp(jnp.cos(output)), dropped


def main() -> None:
    connect(Path(sys.argv[1]), int(sys.argv[2]))
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 4, 32, 8)).astype("float32") for _ in range(3))
    bias = rng.standard_normal((4, 32, 32)).astype("float32")
    sharding = NamedSharding(jax.make_mesh((4,), ("seq",)), PartitionSpec(None, None, "seq"))
    expected = jax.jit(step)(query, key, value, bias)
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    features = [jax.device_put(x, sharding) for x in (query, key, value)]
    found = jax.jit(functools.partial(step, sharding=sharding))(*features, jax.device_put(bias, whole))
    for name, actual, wanted in zip(NAMES, found, expected, strict=True):
        actual = multihost_utils.process_allgather(actual, tiled=True)
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    print("as one device:", *NAMES)


if __name__ == "__main__":
    main()
