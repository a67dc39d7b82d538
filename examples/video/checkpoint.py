"""A run's checkpoint: one safetensors file with the weights, the optimiser's state and the losses so far."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import attend_jax
import attend_torch

LOSSES = "losses"
# What decides the numbers of a training, beside its settings.
FILES = ("config", "data", "faults", "flax_linear", "flax_model", "flax_train", "torch_model", "torch_train")
PACKAGES = ("jax", "flax", "optax", "torch", "numpy")


def _source() -> str:
    """What was imported, in short: no run goes on from what another version has left."""
    found = hashlib.sha256(" ".join(map(version, PACKAGES)).encode())
    paths = [Path(__file__).with_name(f"{name}.py") for name in FILES]
    for package in (attend_jax, attend_torch):
        paths += sorted(Path(package.__file__).parent.rglob("*.py"))
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()


SOURCE = _source()


def file_for(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """The file of a run, another one for other settings or another version of the source."""
    about = hashlib.sha256((SOURCE + json.dumps(settings, sort_keys=True, default=str)).encode()).hexdigest()
    return folder / f"{name}-{about[:10]}.safetensors"


def save(path: Path, arrays: Mapping[str, np.ndarray], losses: list[float]) -> None:
    """Whole or not at all: an interruption leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    # Not ascontiguousarray, which gives a scalar an axis: the Flax step would be compiled anew, and round otherwise.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_file({**whole, LOSSES: np.asarray(losses, np.float64)}, unfinished)
    os.replace(unfinished, path)


def load(path: Path) -> tuple[dict[str, np.ndarray], list[float]] | None:
    """The arrays and losses of a checkpoint, or None where there is none."""
    if not path.exists():
        return None
    arrays = load_file(path)
    return arrays, arrays.pop(LOSSES).tolist()
