"""One process a side: load the target, say hello, then arrays in and arrays out until told to stop.

The framework's own part is in worker_torch.py and worker_jax.py, imported only when it is known which one it is.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import traceback
from types import ModuleType
from typing import Any

import numpy as np

from parity import spec as specs
from parity.channel import Channel
from parity.environment import peak_mib
from parity.messages import Bad, Hello, Job, Options, Outcome
from parity.spec import BadSpec, Spec


def main(connection: Channel, spec: Spec, options: Options) -> None:
    """The whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pipeline's to handle
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
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
        _check(spec, side, target, face, options)
        face = dataclasses.replace(face, call=_swallowed(side, target, face))
        face = dataclasses.replace(
            face, corners=_knows_corners(side, target, face), groups=_answers(side, target, face, heads=(4, 2))
        )
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


def end_with_parent(parent: int) -> None:
    """A worker whose parent was killed would go on with its case, and hold the terminal's pipe open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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
                f"{spec} cannot be constructed with dropout, flash and causal alone: {words(error)}. Wrap it in a "
                "class or function that fills in the rest."
            ) from None
    try:
        side.trial(target, face)
    except TypeError as error:
        if "argument" in str(error):  # the call itself; what the call computes is for the cases to judge
            raise BadSpec(f"{spec} cannot be called as f(query, key, value): {words(error)}") from None
    except Exception:
        return


def _answer(side: ModuleType, target: Any, face: specs.Interface, **arguments: Any) -> np.ndarray | None:
    """What a small call gives, None if it raises."""
    try:
        result: np.ndarray = side.trial(target, face, **arguments)
    except Exception:
        return None
    return result


def _answers(side: ModuleType, target: Any, face: specs.Interface, **arguments: Any) -> bool:
    return _answer(side, target, face, **arguments) is not None


def _swallowed(side: ModuleType, target: Any, face: specs.Interface) -> frozenset[str]:
    """The call's arguments; of those that a **keywords takes, the tensors that make a difference."""
    if "**" not in face.call:
        return face.call
    wider = dataclasses.replace(face, call=face.call | {"bias", "mask"})
    plain = _answer(side, target, face)
    found = set()
    for name, tensor in (("bias", np.eye(2, 3, dtype=np.float32)), ("mask", np.eye(2, 3, dtype=bool))):
        changed = _answer(side, target, wider, **{name: tensor})
        if plain is not None and changed is not None and not np.array_equal(plain, changed):
            found.add(name)
    return (face.call - {"**"}) | found


def _knows_corners(side: ModuleType, target: Any, face: specs.Interface) -> bool:
    """Does `causal` tell its strings apart (S10), or take any of them for True?

    Either it refuses a string that is no corner, or the two corners differ where there are more keys than queries.
    """
    if "causal" not in face.constructor | face.call:
        return False
    upper, lower = (_answer(side, target, face, causal=corner) for corner in ("upper_left", "lower_right"))
    if not _answers(side, target, face, causal="no such corner"):
        return upper is not None
    return upper is not None and lower is not None and not np.array_equal(upper, lower)


def _run(side: ModuleType, target: Any, face: specs.Interface, job: Job) -> Outcome:
    start = time.perf_counter()
    try:
        arrays = side.run(target, face, job)
    except BaseException as error:  # a target may raise SystemExit or KeyboardInterrupt as well
        refused = any(base.__name__ == "ImplementationRefused" for base in type(error).__mro__)
        field = {"refused": str(error)} if refused else {"raised": words(error)}
        return Outcome(job.key, seconds=time.perf_counter() - start, peak_mib=peak_mib(), **field)  # type: ignore[arg-type]
    return Outcome(job.key, arrays, seconds=time.perf_counter() - start, peak_mib=peak_mib())


def words(error: BaseException) -> str:
    """One line: the last of what the exception says itself, without a framework's pages around it."""
    lines = [line for line in traceback.format_exception_only(error) if line.strip()]
    text = " ".join(" ".join(lines).split()).split(" -------------------- ")[0]  # where JAX explains its tracebacks
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 400 else text[:400] + " …"
