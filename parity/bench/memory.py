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


_ARENA_MAX = -8  # mallopt's


def one_arena() -> None:
    """Call it before there are threads: each would get an arena of its own, which keeps what is freed in it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


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
