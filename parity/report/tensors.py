"""The inputs of failed cases as safetensors, one file a case, for a debugger or a bug report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from parity.results import Report
from parity.tensors import make


def write(report: Report, folder: Path) -> None:
    """Each tensor under its name; the command that repeats the case in the metadata."""
    for result in report.results:
        if result.status == "failed" and result.case is not None:
            arrays = make(result.case, result.seed)
            metadata = {"command": result.command, "reason": result.reason, "cause": result.cause}
            contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(contiguous, folder / f"{result.name}.safetensors", metadata)
