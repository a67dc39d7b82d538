"""One process a framework: asked to inspect or to time a contender, it does, and sleeps until asked again.

The framework's own part is in torch_side.py and jax_side.py, each with its table of contenders.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from parity.attention import Attention
from parity.bench import memory
from parity.bench.memory import TooLarge
from parity.bench.messages import Bad, Contender, Hello, Inspect, Inspected, Task, Time, Timed, Unable
from parity.bench.rows import FORWARD, Row
from parity.channel import Channel
from parity.errors import BadInput
from parity.worker import end_with_parent, words

# Seconds that a sample should last: far beyond the clock's grain and a launch's cost.
SAMPLE = {"cpu": 0.01, "gpu": 0.03}
MOST_CALLS = 2000
# Calls launched as one. A GPU is handed many operations at once, as a jitted step or a CUDA graph; a program of
# one short call is mostly its launch, and XLA makes a CUDA graph of five operations or more only (jaxlib 0.11.2).
TOGETHER = {"cpu": 1, "gpu": 8}
# A program of short calls is as long as it takes to hand over its arrays, 2 to 3 µs each in JAX. So each set of arrays
# goes through several calls, one's results being the next one's inputs.
LINKS, SHORT = 8, 1e10  # floating-point operations of a call forward


def links(attention: Attention) -> int:
    """How many calls a set of arrays goes through."""
    same = attention.head_dim == attention.value_dim  # or an output cannot take the query's place
    return LINKS if same and TOGETHER["gpu"] > 1 and Row(attention).flops(FORWARD) < SHORT else 1


def following(arrays: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The next call's arrays: results take the places of what they have the shape of."""
    if "dquery" not in results:
        return {**arrays, "query": results["output"]}
    gradients = {name: results.get("d" + name, array) for name, array in arrays.items()}
    return {**gradients, "cotangent_output": results["output"]}


@dataclasses.dataclass(frozen=True)
class Program:
    """A contender ready to run. `run` returns output and gradients; `memory` what it takes beyond inputs and results,
    and how that was obtained; `time` the seconds of so many calls, with all their work done."""

    run: Callable[[], Mapping[str, Any]]
    memory: Callable[[], tuple[int | None, str]]
    time: Callable[[int], float]
    runs: str = ""
    note: str = ""


class Side(Protocol):
    """What torch_side.py and jax_side.py have to offer."""

    def set_up(self, device: str | None) -> str: ...
    def contenders(self) -> tuple[Contender, ...]: ...
    def environment(self) -> dict[str, str]: ...
    def program(self, contender: str, attention: Attention, mode: str, inputs: Any) -> Program: ...
    def inputs(self, attention: Attention, seed: int) -> Any: ...
    def to_numpy(self, array: Any) -> np.ndarray: ...
    def release(self) -> None: ...


def in_programs(program: Callable[[int], float], together: int) -> Callable[[int], float]:
    """Seconds of so many calls, from those of so many programs of `together` calls."""

    def time_calls(calls: int) -> float:
        programs = max(1, round(calls / together))
        return program(programs) * calls / (programs * together)

    return time_calls


def main(connection: Channel, framework: str, device: str | None) -> None:
    """The whole life of a worker process."""
    memory.keep()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs some of the GPU's memory as well
    try:
        side = _load(framework)
        found = side.set_up(device)
    except ModuleNotFoundError as error:
        connection.send(Bad(f"{error.name!r} is not installed; pip install 'attend-jax[{framework}]'"))
        return
    except BadInput as error:
        connection.send(Bad(str(error)))
        return
    connection.send(Hello(found, side.contenders(), side.environment()))
    bench = Bench(side, SAMPLE[found])
    while True:
        try:
            question = connection.recv()
        except (EOFError, OSError):  # the pipe is gone
            return
        connection.send(bench.answer(question))


def _load(framework: str) -> Side:
    if framework == "torch":
        from parity.bench import torch_side as side
    else:
        from parity.bench import jax_side as side  # type: ignore[no-redef]
    return side


class Bench:
    """The programs of the row and mode at hand. They are made when they are first asked for, warm-up included."""

    def __init__(self, side: Side, sample: float) -> None:
        self._side, self._sample = side, sample
        self._row: tuple[Attention, int] | None = None
        self._mode = ""
        self._inputs: Any = None
        self._programs: dict[str, tuple[Program, int]] = {}

    def answer(self, question: Inspect | Time) -> Inspected | Timed | Unable:
        try:
            program, calls = self._program(question.task)
            if isinstance(question, Time):
                # What other processes did meanwhile is out of the caches again, and the threads are awake.
                if calls > 1:
                    program.time(1)
                return Timed(program.time(calls) / calls, calls)
            return self._inspect(program, question)
        except TooLarge as error:
            return Unable(str(error), "skipped")
        except Exception as error:
            refused = any(base.__name__ == "ImplementationRefused" for base in type(error).__mro__)
            return Unable(str(error), "refused") if refused else Unable(words(error))

    def _program(self, task: Task) -> tuple[Program, int]:
        row = (task.attention, task.seed)
        if (row, task.mode) != (self._row, self._mode):
            self._programs.clear()
            if row != self._row:
                self._row = self._inputs = None
            self._side.release()
            if self._inputs is None:
                self._inputs = self._side.inputs(*row)
            self._row, self._mode = row, task.mode
        if task.contender not in self._programs:
            program = self._side.program(task.contender, task.attention, task.mode, self._inputs)
            program.time(1)  # the first call compiles, allocates and tunes
            self._programs[task.contender] = program, self._calls(program)
        return self._programs[task.contender]

    def _calls(self, program: Program) -> int:
        """So many that a sample is long enough."""
        calls = 1
        while True:
            wanted = math.ceil(calls * self._sample / max(program.time(calls), 1e-9))
            if wanted <= 2 * calls or calls >= MOST_CALLS:
                return min(max(wanted, 1), MOST_CALLS)
            calls = min(wanted, 10 * calls)

    def _inspect(self, program: Program, question: Inspect) -> Inspected:
        found = program.run() if question.heads else {}
        results = {
            name: self._side.to_numpy(pick(found[name], question, self._layout(question)))
            for name in ("output", "dquery")
            if name in found
        }
        del found
        memory, by = program.memory()
        return Inspected(memory, by, results, program.runs, program.note)

    def _layout(self, question: Inspect) -> str:
        return next(c.layout for c in self._side.contenders() if c.name == question.task.contender)


def pick(array: Any, question: Inspect, layout: str) -> Any:
    """(place, query, d) of a result, in whatever framework."""
    b, h = (list(axis) for axis in zip(*question.heads, strict=True))
    queries = list(question.queries)
    if layout == "bnhd":
        array = array.swapaxes(1, 2)
    return array[np.array(b)[:, None], np.array(h)[:, None], np.array(queries)[None, :]]
