"""Where a run happened: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("attend-jax", "numpy", "ml_dtypes", "einops", "jaxtyping", "jax", "jaxlib", "flax", "torch")


def versions() -> dict[str, str]:
    """Versions of what is installed, without importing it."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "commit": commit(),
    }


def peak_mib() -> int:
    """The most memory this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB on Linux


def commit() -> str:
    """The commit of this checkout, "-dirty" if changed; $PARITY_COMMIT or "unknown" outside one."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("PARITY_COMMIT", "unknown")
    return answer.stdout.strip()
