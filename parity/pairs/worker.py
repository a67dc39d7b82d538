"""One process a side of a pair: make the module, say what it is made of, then run cases until told to stop."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from parity.channel import Channel
from parity.environment import peak_mib
from parity.errors import BadInput
from parity.mapped import trim
from parity.messages import Bad, Options, Outcome, Pass
from parity.pairs import load
from parity.pairs.handover import hand_over
from parity.pairs.messages import PairHello, PairJob, PairSide
from parity.worker import end_with_parent, words

# How an exception says that there is not enough: Python's own, torch's, its CPU allocator's, XLA's.
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError", "not enough memory", "can't allocate memory", "RESOURCE_EXHAUSTED")


def main(
    connection: Channel,
    side: PairSide,
    options: Options,
    *,
    package: str = "parity.pairs",
    run: Callable[[Any, Any], Outcome] | None = None,
) -> None:
    """The whole life of a worker process. `package` has the two sides, `run` answers a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pipeline's to handle
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        framework = _framework(side.framework, package)
        framework.set_up(options)
        module = _made(framework, side)
        module.heard = lambda number, total: connection.send(Pass(number, total))
        layers, arrays = module.described()
        connection.send(PairHello(framework.environment(), layers, arrays, module.variants()))
    except BadInput as error:
        connection.send(Bad(str(error)))
        return
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):  # the pipeline is gone
            return
        try:
            if run is None:
                hand_over(connection, *_run(module, job, f"the {side.framework} module"))
            else:
                connection.send(run(module, job))
                trim()
        except (EOFError, OSError):
            return


def _framework(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}_side")
    except ModuleNotFoundError as error:
        extra = "torch" if name == "torch" else "jax"
        raise BadInput(f"{error.name!r} is not installed; pip install 'attend-jax[{extra}]'") from None


def _made(framework: ModuleType, side: PairSide):  # type: ignore[no-untyped-def]
    pair = load.load(side.pair)
    try:
        return framework.Made(pair, side)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{side} cannot be made: {words(error)}") from None


def _given(job: PairJob) -> str:
    """What a module was called with, for one that needed something else."""
    return "called with " + ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in job.arrays.items())


def _run(module, job: PairJob, name: str) -> tuple[Outcome, dict[str, np.ndarray]]:  # type: ignore[no-untyped-def]
    """What became of a job, and the arrays that it is to have."""
    start = time.perf_counter()
    try:
        arrays, notes = module.run(job)
    except BaseException as error:  # a module may raise SystemExit or KeyboardInterrupt as well
        seconds, said = time.perf_counter() - start, words(error)
        if any(sign in said for sign in _OUT_OF_MEMORY):  # which says nothing of what the module computes
            return Outcome(job.key, lost=f"{name} ran out of memory: {said}", seconds=seconds, peak_mib=peak_mib()), {}
        return Outcome(job.key, raised=f"{said} ({_given(job)})", seconds=seconds, peak_mib=peak_mib()), {}
    return Outcome(job.key, seconds=time.perf_counter() - start, peak_mib=peak_mib(), notes=notes), arrays
