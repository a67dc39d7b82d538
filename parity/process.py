"""A side's process, seen from the pipeline: start it, give it jobs, and outlive its death."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from parity import worker
from parity.channel import Channel
from parity.messages import GO_ON, Bad, Options, Outcome, Pass
from parity.spec import BadSpec

# Seconds that a side may take to import its framework and its target, on a busy machine.
LOADING = 120.0

_CONTEXT = multiprocessing.get_context("spawn")  # forking a process that has started JAX or torch deadlocks


class Side:
    """One worker process at a time; a dead or stuck one costs its job and is replaced.

    Every job is answered by exactly one `Outcome`, in order, besides those that say that there is `more`; a long one
    says before to `heard` how far it is.
    """

    def __init__(
        self, spec: Any, options: Options, *, label: str, timeout: float, main: Callable[..., None] = worker.main
    ) -> None:
        self.label = label
        self.heard: Callable[[Pass], None] = lambda one: None
        self._spec, self._options, self._timeout, self._main = spec, options, timeout, main
        self._job: Any = None
        self._started = 0.0
        self._waiting: float | None = None  # since when the worker waits for us
        self._start()

    def hello(self) -> Any:
        """Its first message. Wait until the worker is ready; raise BadSpec if the target is no use."""
        limit = max(self._timeout, LOADING)
        if not self._connection.poll(limit):
            self.close()
            raise BadSpec(f"the {self.label} {self._spec} was not ready after {limit:g} s of loading")
        try:
            message = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise BadSpec(
                f"the {self.label} {self._spec} took its process down while loading (exit code {code})"
            ) from None
        if isinstance(message, Bad):
            raise BadSpec(f"{self.label} {self._spec}: {message.message}")
        return message

    @property
    def busy(self) -> bool:
        return self._job is not None

    def submit(self, job: Any) -> None:
        """Hand over a job; only while not busy."""
        assert self._job is None
        self._job, self._started = job, time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # poll() notices that it is dead
            self._connection.send(job)

    def poll(self) -> Outcome | None:
        """The outcome of the job under way, if there is one yet, or some of its arrays: then `go_on` is to follow."""
        if self._job is None:
            return None
        job = self._job
        if self._connection.poll():
            try:
                message: Outcome | Pass = self._connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                return self._lost(job, f"the worker died ({_ending(self._process.exitcode)})")
            if isinstance(message, Pass):
                self.heard(message)
                return None
            if message.more:
                self._waiting = time.monotonic()
            else:
                self._job = None
            return message
        if self._waiting is None and time.monotonic() - self._started > self._timeout:
            return self._lost(job, f"no answer in {self._timeout:g} s")
        return None

    def go_on(self) -> None:
        """What came last has been taken; the time that this took is not the worker's."""
        if self._waiting is None:  # it has died, and been replaced
            return
        self._started += time.monotonic() - self._waiting
        self._waiting = None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(GO_ON)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _lost(self, job: Any, words: str) -> Outcome:
        self.close()
        self._start()
        self.hello()
        self._job = self._waiting = None
        return Outcome(job.key, lost=f"{self.label}: {words}")

    def _start(self) -> None:
        self._process, self._connection = _taken(self._main, self._spec, self._options)


def _ending(code: int | None) -> str:
    """How a process ended. Who kills with SIGKILL is as a rule the system, for memory."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else f"signal {-code}"
    return f"killed by {name}" + (", perhaps by the system for its memory" if name == "SIGKILL" else "")


# Started before anyone has asked for them: what they were started with, and their processes.
_EARLY: list[tuple[tuple[Any, ...], tuple[BaseProcess, Channel]]] = []


def start_early(main: Callable[..., None], spec: Any, options: Options) -> None:
    """Start what a `Side` with these will want, so that it imports its framework meanwhile."""
    given = main, spec, options
    _EARLY.append((given, spawn(*given)))


def end_early() -> None:
    """End what nobody has taken."""
    for _, (process, connection) in _EARLY:
        connection.close()
        process.kill()
        process.join()
    _EARLY.clear()


def _taken(*given: Any) -> tuple[BaseProcess, Channel]:
    for place, (others, process) in enumerate(_EARLY):
        if others == given:
            del _EARLY[place]
            return process
    return spawn(*given)


def spawn(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Channel]:
    """A fresh process that runs target(connection, *arguments), and our end of what connects us."""
    ours, theirs = map(Channel, _CONTEXT.Pipe())
    process = _CONTEXT.Process(target=target, args=(theirs, *arguments), daemon=True)
    with _main_hidden():
        process.start()
    theirs.close()
    return process, ours


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """spawn would run the caller's main module again in the child; a worker needs nothing of it."""
    import sys

    main = sys.modules["__main__"]
    saved = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    main.__spec__ = None
    if hasattr(main, "__file__"):
        main.__file__ = None
    try:
        yield
    finally:
        main.__spec__ = saved["__spec__"]
        if hasattr(main, "__file__"):
            main.__file__ = saved["__file__"]


def wait_for(sides: list[Side], seconds: float) -> None:
    """Sleep until a side has something to say, at most so long."""
    wait([side._connection.fileno() for side in sides if side.busy], seconds)


def default_cache_dir() -> str:
    """Where compiled XLA programs are kept between runs; $XDG_CACHE_HOME is honoured."""
    return os.path.join(_cache(), "xla")


def default_spreads_dir() -> str:
    """Where the widths of bounds are kept between runs: $PARITY_SPREADS_DIR, else beside the XLA programs."""
    return os.environ.get("PARITY_SPREADS_DIR") or os.path.join(_cache(), "spreads")


def _cache() -> str:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "attend-jax")
