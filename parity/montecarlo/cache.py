"""Truths and spreads kept on disk between runs: ten passes in float64 are most of the time that a pair takes.

An entry's name is the SHA-256 of all that it depends on: the torch module (its classes' source, its repr, the version
of torch), its weights, the inputs, the reference's results in the run's own dtype, the seed, the rounding, and the
source of the Monte Carlo arithmetic. Those results, outputs and gradients to the last bit, are what makes this safe:
whatever the classes' source does not show, a helper's code or a constant, changes them, or is too small for that dtype
to tell. An entry that cannot be read is made anew, and one that cannot be kept costs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.cases import Arrays
from parity.errors import BadInput
from parity.mapped import rest
from parity.montecarlo.results import Known, Spread
from parity.weights import files

# What the folder may hold, in bytes; the entries that were not used for longest go first.
LIMIT = 4 << 30
_FORMAT = "parity-spread-2"
_TRUTH, _RESULT, _UNCERTAIN = "truth/", "spread/", "uncertain/"


def remembered(
    folder: str,
    source: Iterable[Any],
    inputs: Arrays,
    reference: Arrays,
    settings: tuple[Any, ...],
    make: Callable[[], Known],
) -> tuple[Known, bool]:
    """The truth and its spread, and whether they are from the folder. `source` is the module, and functions that it is
    called by; `reference` are its results in its own dtype."""
    path = Path(folder) / f"{key(source, inputs, reference, settings)}.safetensors"
    found = _read(path, reference)
    if found is not None:
        return found, True
    made = make()
    _keep(path, made)
    return _read(path, reference) or made, False  # in place, where that takes no memory


def key(source: Iterable[Any], inputs: Arrays, reference: Arrays, settings: tuple[Any, ...]) -> str:
    """The name of an entry.

    >>> key([len], {}, {}, ("seed", 0)) == key([len], {}, {}, ("seed", 1))
    False
    """
    found = hashlib.sha256(_own_source())
    for part in (torch.__version__, np.__version__, *_words(source), repr(settings)):
        found.update(b"\0" + part.encode())
    weights = {
        f"{number}.{name}": (str(tensor.dtype), tuple(tensor.shape), _bits(tensor))
        for number, module in enumerate(source)
        if isinstance(module, torch.nn.Module)
        for name, tensor in module.state_dict().items()
    }
    given = [{name: (str(a.dtype), a.shape, _bytes(a)) for name, a in arrays.items()} for arrays in (inputs, reference)]
    for arrays in (weights, *given):
        for name, (dtype, shape, numbers) in sorted(arrays.items()):
            found.update(f"\0{name}|{dtype}|{shape}|".encode())
            found.update(numbers)
    return found.hexdigest()


def _bits(tensor: torch.Tensor) -> memoryview:
    """Of any dtype, those too that NumPy does not have."""
    return _bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


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


def _read(path: Path, reference: Arrays) -> Known | None:
    """An entry that is whole and fits, else None."""
    if not path.is_file():
        return None
    try:
        arrays, metadata = files.contents(path)
        about = json.loads(metadata["about"])
        parts = {
            word: {name.removeprefix(word): array for name, array in arrays.items() if name.startswith(word)}
            for word in (_TRUTH, _RESULT, _UNCERTAIN)
        }
        spread = Spread(
            parts[_RESULT],
            parts[_UNCERTAIN],
            {str(name): int(count) for name, count in about["unruled"].items()},
            {str(name): int(count) for name, count in about["flips"].items()},
            int(about["runs"]),
        )
    except (BadInput, ValueError, KeyError, TypeError, AttributeError):
        return None
    right = {name: array.shape for name, array in reference.items()}
    found = (parts[_TRUTH], spread.results | spread.uncertain)
    shapes = [{name: array.shape for name, array in part.items()} for part in found]
    if metadata.get("format") != _FORMAT or metadata.get("sum") != _sum(arrays) or shapes != [right, right]:
        return None
    rest(arrays)  # all of it has been summed up
    with contextlib.suppress(OSError):
        os.utime(path)
    return Known({name: parts[_TRUTH][name] for name in reference}, spread)  # a file has an order of its own


def _keep(path: Path, known: Known) -> None:
    found = known.spread
    arrays = {_TRUTH + name: array for name, array in known.truth.items()}
    arrays |= {_RESULT + name: array for name, array in found.results.items()}
    arrays |= {_UNCERTAIN + name: array for name, array in found.uncertain.items()}
    if sum(array.nbytes for array in arrays.values()) > LIMIT:
        return
    about = {"unruled": found.unruled, "flips": found.flips, "runs": found.runs}
    with contextlib.suppress(OSError, BadInput):  # a full disk, or a folder that is not ours
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, arrays, {"format": _FORMAT, "about": json.dumps(about), "sum": _sum(arrays)})
        _prune(path.parent)


def _prune(folder: Path) -> None:
    entries = sorted(folder.glob("*.safetensors"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    size = 0
    for entry in entries:
        size += entry.stat().st_size
        if size > LIMIT:
            entry.unlink(missing_ok=True)


def _sum(arrays: Arrays) -> str:
    """Against disks that lose bits; not against people, who could write what they like into the folder."""
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(_bytes(arrays[name]), zlib.crc32(name.encode(), found))
    return f"{found:08x}"
