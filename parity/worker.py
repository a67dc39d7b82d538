"""One process a side: load the target, say hello, then arrays in and arrays out until told to stop.

The framework's own part is in worker_torch.py and worker_jax.py, imported only when it is known which one it is.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np

from parity import spec as specs
from parity.environment import peak_mib
from parity.messages import Bad, Hello, Job, Options, Outcome
from parity.spec import BadSpec, Spec


def main(connection: Connection, spec: Spec, options: Options) -> None:
    """The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pipeline's to handle
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    # Both sides may share one GPU; by default JAX takes three quarters of it when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        target = specs.load(spec)
        framework = _framework(spec, target)
        side = _side(framework)
        side.set_up(options)
        face = specs.interface(target, framework)
        face = dataclasses.replace(face, corners=_knows_corners(side, target, face))
        _check(spec, side, target, face, options)
    except BadSpec as error:
        connection.send(Bad(str(error)))
        return
    connection.send(Hello(face, side.environment()))
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):  # the pipeline is gone
            return
        if job is None:
            return
        connection.send(_run(side, target, face, job))


def _side(framework: str) -> ModuleType:
    try:
        if framework == "torch":
            from parity import worker_torch as side
        else:
            from parity import worker_jax as side  # type: ignore[no-redef]
    except ModuleNotFoundError as error:
        raise BadSpec(f"{error.name!r} is not installed; pip install 'attend-jax[{framework}]'") from None
    return side


def _framework(spec: Spec, target: Any) -> str:
    """By base class, then annotations, then a trial call."""
    kind = specs.module_kind(target)
    by_base = {"torch": "torch", "nnx": "jax", "linen": "jax"}.get(kind or "")
    if spec.framework and by_base and spec.framework != by_base:
        raise BadSpec(f"{spec} was called a {spec.framework} module, but it is a {kind} one")
    found = spec.framework or by_base or specs.annotated_framework(target)
    if found:
        return found
    for framework in specs.FRAMEWORKS:
        try:
            side = _side(framework)
            side.set_up(Options(device="cpu"))
            side.trial(target, specs.interface(target, framework))
        except Exception:  # the trial asks a question; the answer is no
            continue
        return framework
    raise BadSpec(
        f"{spec} answers neither torch nor JAX arrays (batch, heads, length, features); say torch:{spec} or jax:{spec}"
    )


def _check(spec: Spec, side: ModuleType, target: Any, face: specs.Interface, options: Options) -> None:
    """What can be known before the first case."""
    accepts = face.constructor | face.call
    if options.implementations and "implementation" not in accepts:
        raise BadSpec(f"--implementation was given, but {spec} does not accept implementation")
    for implementation in options.implementations:
        why_not = side.refuses(target, face, implementation)
        if why_not:
            raise BadSpec(f"--implementation {implementation}: {why_not}")
    if isinstance(target, type):
        try:
            side.construct(target, face, {})
        except Exception as error:
            raise BadSpec(
                f"{spec} cannot be constructed with dropout, flash and causal alone: {_words(error)}. Wrap it in a "
                "class or function that fills in the rest."
            ) from None


def _knows_corners(side: ModuleType, target: Any, face: specs.Interface) -> bool:
    """Does `causal` tell its strings apart (S10), or take any of them for True?

    Either it refuses a string that is no corner, or the two corners differ where there are more keys than queries.
    """
    if "causal" not in face.constructor | face.call:
        return False

    def answer(causal: str) -> np.ndarray | None:
        try:
            result: np.ndarray = side.trial(target, face, causal=causal)
        except Exception:
            return None
        return result

    if answer("no such corner") is None:
        return answer("upper_left") is not None
    upper, lower = answer("upper_left"), answer("lower_right")
    return upper is not None and lower is not None and not np.array_equal(upper, lower)


def _run(side: ModuleType, target: Any, face: specs.Interface, job: Job) -> Outcome:
    start = time.perf_counter()
    try:
        arrays = side.run(target, face, job)
    except Exception as error:
        refused = any(base.__name__ == "ImplementationRefused" for base in type(error).__mro__)
        words = str(error) if refused else _words(error)
        field = {"refused": words} if refused else {"raised": words}
        return Outcome(job.key, seconds=time.perf_counter() - start, peak_mib=peak_mib(), **field)  # type: ignore[arg-type]
    return Outcome(job.key, arrays, seconds=time.perf_counter() - start, peak_mib=peak_mib())


def _words(error: BaseException) -> str:
    """One line: the last of what the exception says itself, without a framework's pages around it."""
    lines = [line for line in traceback.format_exception_only(error) if line.strip()]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= 400 else text[:400] + " …"
