"""A file read in place, that can be handed on as what it is: an open file."""

from __future__ import annotations

import mmap
import os
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
            found = cls(stream.fileno(), 0, access=mmap.ACCESS_READ)
            found.file = os.dup(stream.fileno())
        return found

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
