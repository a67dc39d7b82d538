"""One end of what connects the pipeline with a worker: messages, whose large arrays travel as memory and not as copies.

An array of at least `LARGE` bytes is written once, to a file without a name, and read in place on the other side, which
is handed the open file. A file that has no name cannot be left behind, whoever is killed. Arrays that follow each other
share files of `FILE` bytes: their memory is given back file by file, as the last array in each is dropped. What lies in
a file already (`Mapped`) is not written again: that file is handed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from parity.mapped import Mapped, within

LARGE = 1 << 16
FILE = 1 << 25
# Open files of one message, at most about so many; a process may have 1,024, if nobody has raised that.
_FILES = 64
_ALIGNED = 64  # bytes, of a cache line


class Channel:
    """A `multiprocessing.connection.Connection` for messages with large arrays. What could be written to where it was
    sent can be where it is received, and changes nothing there.

    >>> import multiprocessing
    >>> here, there = map(Channel, multiprocessing.Pipe())
    >>> here.send({"weights": np.ones(100_000), "name": "fc"})
    >>> there.recv()["weights"].sum()
    np.float64(100000.0)
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Any) -> None:
        """Raises OSError, as BrokenPipeError, if nobody is there."""
        buffers: list[memoryview] = []
        body = io.BytesIO()
        _Pickler(body, buffers).dump(message)
        groups = list(_grouped(buffers))
        self._connection.send(([group.places for group in groups], body.getvalue()))
        for group in groups:
            with _opened(group) as file:
                reduction.send_handle(self._connection, file, None)

    def recv(self) -> Any:
        """Raises EOFError if the other side is gone."""
        try:
            layout, body = self._connection.recv()
            found = [_read(reduction.recv_handle(self._connection), places) for places in layout]
        except OSError as error:  # in the middle of a message
            raise EOFError(str(error)) from None
        return pickle.loads(body, buffers=[buffer for buffers in found for buffer in buffers])

    def poll(self, timeout: float = 0.0) -> bool:
        return self._connection.poll(timeout)

    def close(self) -> None:
        self._connection.close()

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`."""
        return self._connection.fileno()


class _Pickler(pickle.Pickler):
    """Leaves large arrays out of the pickle, those of ml_dtypes' dtypes too, which NumPy itself would copy into it."""

    def __init__(self, file: io.BytesIO, buffers: list[memoryview]) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._small)
        self._large = buffers

    def _small(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether it stays in the pickle: NumPy offers what is small, too."""
        numbers = buffer.raw()
        if numbers.nbytes < LARGE:
            return True
        self._large.append(numbers)
        return False

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray or value.nbytes < LARGE or value.dtype.hasobject:
            return NotImplemented
        dense = np.ascontiguousarray(value)
        return _array, (pickle.PickleBuffer(dense.reshape(-1).view(np.uint8).data), value.dtype, value.shape)


def _array(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(buffer, np.uint8).view(dtype).reshape(shape)


@dataclasses.dataclass
class _Group:
    """Buffers of one file: one that is there, or one to be written."""

    mapped: Mapped | None
    buffers: list[memoryview] = dataclasses.field(default_factory=list)
    places: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    size: int = 0

    def add(self, buffer: memoryview, start: int | None) -> None:
        start = self.size if start is None else start
        self.buffers.append(buffer)
        self.places.append((start, buffer.nbytes))
        self.size += buffer.nbytes + -buffer.nbytes % _ALIGNED


def _grouped(buffers: Sequence[memoryview]) -> Iterator[_Group]:
    """In order: each group lies in one file already, or is as large as a file is to be."""
    wanted = max(FILE, sum(buffer.nbytes for buffer in buffers) // _FILES)
    group: _Group | None = None
    for buffer in buffers:
        mapped, start = within(buffer) or (None, None)
        if group is not None and (group.mapped is not mapped or (mapped is None and group.size >= wanted)):
            yield group
            group = None
        group = group or _Group(mapped)
        group.add(buffer, start)
    if group is not None:
        yield group


@contextlib.contextmanager
def _opened(group: _Group) -> Iterator[int]:
    """The file of a group, written if it is none yet."""
    if group.mapped is not None:
        yield group.mapped.file
        return
    file = _nameless()
    try:
        with open(file, "wb", buffering=0, closefd=False) as stream:
            for buffer in group.buffers:
                rest = buffer
                while rest:
                    rest = rest[stream.write(rest) :]
                stream.write(bytes(-buffer.nbytes % _ALIGNED))
        yield file
    finally:
        os.close(file)


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("parity", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS: in a file system, but as nameless
        return os.dup(file.fileno())


def _read(file: int, places: Sequence[tuple[int, int]]) -> list[memoryview]:
    """The file's buffers in place: a write to one is this process's own."""
    try:
        whole = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(file)
    return [whole[start : start + size] for start, size in places]
