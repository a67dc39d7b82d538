"""Memory that a step gives back is there for the next one.

XLA takes a step's scratch memory in one piece and gives it back at the end. glibc hands pieces above 32 MiB back to the
kernel, so that every step has each of their pages mapped and cleared anew (docs/video.md). It can be told to keep them.
A running process can say so (`parity.bench.memory.keep`), but for the large pages, which make it faster still: they
have to be in the environment that a process starts with.
"""

from __future__ import annotations

import os
import sys

# No piece has a mapping of its own, the heap is never cut, there is one for all threads, and its pages are large.
KEEP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967296:glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"


def kept() -> None:
    """Start this command anew with memory kept, unless GLIBC_TUNABLES says something already, if only nothing.

    To be called before JAX is imported. A C library that is not glibc does not read it.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": KEEP})
