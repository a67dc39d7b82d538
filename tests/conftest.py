"""The tests run on the CPU, whatever the machine has; this has to be said before JAX starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
