"""The tests run on the CPU, whatever the machine has, as eight devices; both have to be said before JAX starts.

Most tests are about one device, and that is what there seems to be; those marked `many_devices` see all eight.
"""

import os

import jax
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def one_device(request, monkeypatch):
    if request.node.get_closest_marker("many_devices") is None:
        monkeypatch.setattr(jax, "device_count", lambda: 1)
