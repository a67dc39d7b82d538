"""Weights in safetensors files. Nothing here reads a pickle, ever."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from parity.mapped import Mapped
from parity.weights.layers import WeightsError

# safetensors' own reader for NumPy does not know the last ones.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64), "U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16), "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_), "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
_LARGEST_HEADER = 100 << 20  # safetensors' own limit


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays by name. Tied ones, given under several names, are written under each."""
    for name, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise WeightsError(f"`{name}`: expected a dtype that safetensors has, got {array.dtype}")
    dense = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    # A file that was there stays as it was until the new one is whole.
    unfinished = Path(f"{path}.{os.getpid()}.unfinished")
    try:
        save_file(dense, str(unfinished), dict(metadata) if metadata else None)
        os.replace(unfinished, path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: could not write it: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file, each with the dtype it was written with.

    Raises `WeightsError` for a file that is missing, cut off, or no safetensors.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/w.safetensors", {"w": np.ones((2, 3), ml_dtypes.bfloat16)})
    ...     read(f"{folder}/w.safetensors")["w"].dtype.name
    'bfloat16'
    """
    return contents(path)[0]


def contents(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file as `read` gives them, and its metadata."""
    try:
        content = _mapped(path)
    except OSError as error:
        raise WeightsError(f"{path}: expected a safetensors file, could not read it: {error.strerror}") from None
    start = bytes(content[:9])
    length = int.from_bytes(start[:8], "little")
    if len(content) < 9 or not 2 <= length <= _LARGEST_HEADER or start[8:] != b"{":
        if start[:2] == b"PK" or start[:1] == b"\x80":
            raise WeightsError(
                f"{path}: expected a safetensors file, got a pickle or zip archive, as torch.save writes. Those can "
                "run code when read and are not read here: load it where you trust it and save it with safetensors"
            )
        raise WeightsError(f"{path}: expected a safetensors file, got something else ({len(content)} bytes)")
    if len(content) < 8 + length:
        raise WeightsError(f"{path}: cut off in the header: it needs {8 + length} bytes, the file has {len(content)}")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
        if not isinstance(header, dict):
            raise ValueError("the header is no object")
        metadata = {str(key): str(value) for key, value in (header.pop("__metadata__", None) or {}).items()}
        body = content[8 + length :]
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        if end > len(body):
            raise WeightsError(f"{path}: cut off: it needs {8 + length + end} bytes, the file has {len(content)}")
        if end < len(body):
            raise WeightsError(f"{path}: {len(body) - end} bytes too long: corrupt, or not one file")
        return {name: _array(name, entry, body) for name, entry in header.items()}, metadata
    except WeightsError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{path}: corrupt: its header is not that of a safetensors file ({error})") from None


def _mapped(path: str | Path) -> memoryview:
    try:
        return memoryview(Mapped.of(path))
    except ValueError:  # it is empty
        return memoryview(b"")


def _array(name: str, entry: Mapping[str, Any], body: memoryview) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the unknown dtype {entry['dtype']}")
    start, end = map(int, entry["data_offsets"])
    if not 0 <= start <= end:
        raise ValueError(f"{name} has the offsets {start} to {end}")
    return np.frombuffer(body[start:end], _DTYPES[entry["dtype"]]).reshape(tuple(entry["shape"]))
