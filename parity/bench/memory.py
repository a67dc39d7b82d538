"""How much memory a call takes in this process, where no allocator keeps accounts; and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from parity.attention import Attention
from parity.bench.rows import BOTH, FORWARD, Row

Results = TypeVar("Results")
# So many float32 copies of the scores does a quadratic contender hold at its worst, roughly.
_COPIES = {FORWARD: 3, BOTH: 6}


def rss_peak(run: Callable[[], Results], size: Callable[[Results], int]) -> tuple[int | None, str]:
    """Bytes by which one call made the process grow at its highest, without the results; and what that number is.

    It counts pages: a call that reuses memory which the process kept would seem to take none. So as much as can be is
    given back to the system first, which works in a process of one arena. Linux with glibc only.
    """
    by = "peak RSS growth"
    gc.collect()
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        before = _status("VmHWM")
        results = run()
        grown = _status("VmHWM") - before
    except OSError:
        return None, f"{by}: not to be had here"
    return max(grown - size(results), 0), by


# glibc's mallopt: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD.
_KEEPS = {-8: 1, -3: 2**25, -1: 2**31 - 1}


def keep() -> None:
    """What is freed stays with the process until `rss_peak` gives it back. Call it before there are threads, each of
    which would get an arena of its own.

    By default glibc gives memory back when enough of it is free, and what is taken anew costs a page fault every 4 KiB:
    up to three quarters of a call's time, or nothing, as the sizes of earlier arrays have it. That is no contender's.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, value in _KEEPS.items():
            libc.mallopt(option, value)


class TooLarge(Exception):
    """A contender that we do not let try: on a CPU it would take the machine down with it."""


def check(needs: int) -> None:
    """Raise TooLarge if a program that needs so many bytes had better not be run on this machine."""
    there = available()
    if there is not None and needs > 0.8 * there:
        raise TooLarge(f"it would take about {needs / 2**30:.1f} GiB, and {there / 2**30:.1f} GiB are free")


def check_scores(attention: Attention, mode: str) -> None:
    """The same for a contender that holds all scores."""
    check(4 * Row(attention).scores * _COPIES[mode])


def available() -> int | None:
    """Bytes that can be taken without swapping; None where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return _kib(Path("/proc/meminfo"), "MemAvailable")
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def _status(field: str) -> int:
    return _kib(Path("/proc/self/status"), field)


def _kib(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no {field}")
