"""A run's checkpoint: one safetensors file with the weights, the optimiser's state and the losses so far."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

LOSSES = "losses"


def file_for(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """The file of a run: other settings, or another version of this example's source, and it is another file.

    So no checkpoint is taken up by a run that it does not belong to.
    """
    about = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        about.update(source.read_bytes())
    return folder / f"{name}-{about.hexdigest()[:10]}.safetensors"


def save(path: Path, arrays: Mapping[str, np.ndarray], losses: list[float]) -> None:
    """Whole or not at all: an interruption leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file({**whole, LOSSES: np.asarray(losses, np.float64)}, unfinished)
    os.replace(unfinished, path)


def load(path: Path) -> tuple[dict[str, np.ndarray], list[float]] | None:
    """The arrays and losses of a checkpoint, or None where there is none."""
    if not path.exists():
        return None
    arrays = load_file(path)
    return arrays, arrays.pop(LOSSES).tolist()
