"""Spreads kept on disk between runs: eight noisy runs are most of the time that a pair takes.

An entry's name is the SHA-256 of all that a spread depends on: the torch module (its classes' source, its repr, the
version of torch), its weights, the inputs, the truth that it computes from them, the seed, the rounding, and the source
of the Monte Carlo arithmetic. The truth is what makes this safe: whatever the classes' source does not show, a helper's
code or a constant, changes it. An entry that cannot be read is made anew, and one that cannot be kept costs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.cases import Arrays
from parity.errors import BadInput
from parity.montecarlo.results import Spread
from parity.weights import files

# What the folder may hold, in bytes; the entries that were not used for longest go first.
LIMIT = 1 << 30
_FORMAT = "parity-spread-1"
_RESULT, _UNCERTAIN = "spread/", "uncertain/"


def remembered(
    folder: str,
    source: Iterable[Any],
    inputs: Arrays,
    truth: Arrays,
    settings: tuple[Any, ...],
    make: Callable[[], Spread],
) -> tuple[Spread, bool]:
    """The spread, and whether it is from the folder. `source` is the module, and functions that it is called by."""
    path = Path(folder) / f"{key(source, inputs, truth, settings)}.safetensors"
    found = _read(path, truth)
    if found is not None:
        return found, True
    made = make()
    _keep(path, made)
    return made, False


def key(source: Iterable[Any], inputs: Arrays, truth: Arrays, settings: tuple[Any, ...]) -> str:
    """The name of an entry.

    >>> key([len], {}, {}, ("seed", 0)) == key([len], {}, {}, ("seed", 1))
    False
    """
    found = hashlib.sha256(_own_source())
    for part in (torch.__version__, np.__version__, *_words(source), repr(settings)):
        found.update(b"\0" + part.encode())
    weights = {
        f"{number}.{name}": tensor.detach().cpu().numpy()
        for number, module in enumerate(source)
        if isinstance(module, torch.nn.Module)
        for name, tensor in module.state_dict().items()
    }
    for arrays in (weights, inputs, truth):
        for name in sorted(arrays):
            found.update(f"\0{name}|{arrays[name].dtype}|{arrays[name].shape}|".encode())
            found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _words(source: Iterable[Any]) -> Iterator[str]:
    """What a module is made of in words: torch's own classes go with its version, and only the others' are read."""
    for item in source:
        if isinstance(item, torch.nn.Module):
            yield repr(item)
            kinds = {type(module) for module in item.modules()}
            yield from sorted(_text(kind) for kind in kinds if not kind.__module__.startswith("torch."))
        elif item is not None:
            yield _text(item)


def _text(item: Any) -> str:
    try:
        return inspect.getsource(item)
    except (OSError, TypeError):  # made in an interpreter, or no Python at all
        return f"{getattr(item, '__module__', '')}.{getattr(item, '__qualname__', type(item).__qualname__)}"


@functools.cache
def _own_source() -> bytes:
    """The Monte Carlo arithmetic as it stands here."""
    return b"\0".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))


def _read(path: Path, truth: Arrays) -> Spread | None:
    """An entry that is whole and fits, else None."""
    if not path.is_file():
        return None
    try:
        arrays, metadata = files.contents(path)
        about = json.loads(metadata["about"])
        found = Spread(
            {name.removeprefix(_RESULT): array for name, array in arrays.items() if name.startswith(_RESULT)},
            {name.removeprefix(_UNCERTAIN): array for name, array in arrays.items() if name.startswith(_UNCERTAIN)},
            {str(name): int(count) for name, count in about["unruled"].items()},
            {str(name): int(count) for name, count in about["flips"].items()},
            int(about["runs"]),
        )
    except (BadInput, ValueError, KeyError, TypeError, AttributeError):
        return None
    shapes = {name: array.shape for name, array in (found.results | found.uncertain).items()}
    right = {name: array.shape for name, array in truth.items()}
    if metadata.get("format") != _FORMAT or metadata.get("sha256") != _sum(arrays) or shapes != right:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _keep(path: Path, found: Spread) -> None:
    arrays = {_RESULT + name: array for name, array in found.results.items()}
    arrays |= {_UNCERTAIN + name: array for name, array in found.uncertain.items()}
    if sum(array.nbytes for array in arrays.values()) > LIMIT:
        return
    about = {"unruled": found.unruled, "flips": found.flips, "runs": found.runs}
    with contextlib.suppress(OSError, BadInput):  # a full disk, or a folder that is not ours
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, arrays, {"format": _FORMAT, "about": json.dumps(about), "sha256": _sum(arrays)})
        _prune(path.parent)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("*.safetensors"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    size = 0
    for entry in entries:
        size += entry.stat().st_size
        if size > LIMIT:
            entry.unlink(missing_ok=True)


def _sum(arrays: Arrays) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
