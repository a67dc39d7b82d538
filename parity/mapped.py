"""A file read in place, that can be handed on as what it is: an open file. And memory that is not needed."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Mapped(mmap.mmap):
    """All bytes of a file, to be read. What is never looked at is never read, and what was takes no memory of its own.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     file.write(b"12345") and file.flush()
    ...     mapped = Mapped.of(file.name)
    >>> array = np.frombuffer(mapped, np.uint8)[2:4]
    >>> within(array.data) == (mapped, 2)
    True
    """

    file: int

    @classmethod
    def of(cls, path: str | Path) -> Mapped:
        """Raises OSError; ValueError for a file that is empty."""
        with open(path, "rb") as stream:
            return cls._over(stream.fileno())

    @classmethod
    def _over(cls, file: int, access: int = mmap.ACCESS_READ) -> Mapped:
        found = cls(file, 0, access=access)
        found.file = os.dup(file)
        return found

    def rest(self) -> None:
        """What has been looked at takes no memory of this process any more, until it is looked at again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)


def within(buffer: memoryview) -> tuple[Mapped, int] | None:
    """The file that a contiguous buffer lies in, and where; None if it is memory of a process."""
    owner: Any = buffer
    while isinstance(owner, np.ndarray | memoryview):
        owner = getattr(owner, "base" if isinstance(owner, np.ndarray) else "obj")
    if not isinstance(owner, Mapped):
        return None
    first, start = (np.frombuffer(part, np.uint8).__array_interface__["data"][0] for part in (owner, buffer))
    return owner, start - first


def spilled(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays that will not be wanted for a while, in a file without a name where temporary ones lie: the system writes
    them out when it wants the memory. They are to be read only. Where there is no room, they stay as they are."""
    places: dict[int, int] = {}
    try:
        with tempfile.TemporaryFile() as file:
            for array in arrays.values():
                if array.size and id(array) not in places:
                    places[id(array)] = file.tell()
                    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                    file.write(bytes(-file.tell() % 64))
            file.flush()
            # Torch warns of arrays that it could not write to.
            content = memoryview(Mapped._over(file.fileno(), mmap.ACCESS_COPY))
    except (OSError, ValueError):  # a full disk; a file that is empty
        return dict(arrays)
    return {
        name: np.frombuffer(content, array.dtype, array.size, places[id(array)]).reshape(array.shape)
        if array.size
        else array
        for name, array in arrays.items()
    }


def rest(arrays: Mapping[str, np.ndarray]) -> None:
    """`Mapped.rest` of the files that arrays lie in."""
    dense = (
        array.reshape(-1).view(np.uint8).data for array in arrays.values() if array.size and array.flags.c_contiguous
    )
    found = map(within, dense)
    for mapped in {id(place[0]): place[0] for place in found if place}.values():
        mapped.rest()


def trim() -> None:
    """Give back what was freed: the allocator keeps tensors of up to 32 MiB for the next ones."""
    if _trim is not None:
        _trim(0)


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's
