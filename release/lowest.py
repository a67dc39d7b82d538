"""Prints constraints: the lowest versions that pyproject.toml admits of what a user on a CPU installs.

Arguments, as torch==2.13.0, stand in place of the pins of the same name.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXTRAS = ("jax", "torch", "parity")


def pins(project: dict[str, Any]) -> list[str]:
    """Of each `name>=version` the version itself. A requirement without a lower bound is an error: what was tested?"""
    optional = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(row for extra in EXTRAS for row in optional[extra])]
    found = [re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement) for requirement in requirements]
    unbounded = [row for row, match in zip(requirements, found, strict=True) if match is None]
    if unbounded:
        raise SystemExit(f"pyproject.toml: expected NAME>=VERSION, got {', '.join(unbounded)}")
    return [f"{match[1]}=={match[2]}" for match in found if match]


if __name__ == "__main__":
    lowest = pins(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    print("\n".join({pin.split("==")[0]: pin for pin in [*lowest, *sys.argv[1:]]}.values()))
