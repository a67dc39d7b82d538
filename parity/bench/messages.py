"""What travels between `measure.py` and a worker: frozen dataclasses of numbers, words and small NumPy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.attention import Attention

# The note of one that is timed without a gradient that is due.
NO_BIAS_GRADIENT = "no bias gradient"


@dataclasses.dataclass(frozen=True)
class Contender:
    """Who takes part. `peer`: somebody else's, to be beaten. `quadratic`: holds all scores at once. With
    `bias_gradient` False it has none to give, and where one is due it is timed but is no peer."""

    name: str
    framework: str
    devices: tuple[str, ...] = ("cpu", "gpu")
    layout: str = "bhnd"
    peer: bool = True
    quadratic: bool = False
    bias_gradient: bool = True


@dataclasses.dataclass(frozen=True)
class Hello:
    """A worker is ready: where it runs and who takes part there."""

    device: str
    contenders: tuple[Contender, ...]
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A worker cannot start: why, in words."""

    message: str


@dataclasses.dataclass(frozen=True)
class Task:
    """One contender on one row in one mode. Says everything, so that a worker that was replaced can go on."""

    attention: Attention
    mode: str
    contender: str
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Compile, run, and say what can be known without a clock. `heads` and `queries`: of which (batch, head) and which
    of its queries the results are wanted."""

    task: Task
    heads: tuple[tuple[int, int], ...] = ()
    queries: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Time:
    """One timed sample, please."""

    task: Task


@dataclasses.dataclass(frozen=True)
class Inspected:
    """`memory` in bytes beyond inputs and results, and how it was obtained; `results`: quantity -> (place, query, d).
    `runs` is which implementation runs where the contender chooses one, `note` why."""

    memory: int | None
    memory_by: str
    results: Mapping[str, np.ndarray]
    runs: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Timed:
    """Seconds a call, the mean of `calls` calls in a row."""

    seconds: float
    calls: int


@dataclasses.dataclass(frozen=True)
class Unable:
    """The contender cannot do this: its own words. `status` is one of those of a `Measurement`."""

    words: str
    status: str = "raised"
