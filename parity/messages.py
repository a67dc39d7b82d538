"""What travels between the pipeline and a worker: frozen dataclasses of NumPy arrays and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.cases import Case
from parity.spec import Interface

# The answer to an `Outcome` that says that there is more.
GO_ON = "go on"


@dataclasses.dataclass(frozen=True)
class Options:
    """How a worker is to run. `device` is "cpu", "gpu" or None for what the framework prefers."""

    device: str | None = None
    implementations: tuple[str, ...] = ()
    cache_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Hello:
    """A worker is ready: what it will call, and where it runs."""

    interface: Interface
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A worker cannot start: bad input, in words."""

    message: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A case to run. `seed` is for the native generators of dropout cases."""

    key: int
    case: Case
    arrays: Mapping[str, np.ndarray]
    implementation: str | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pass:
    """A job that takes many passes has done so many of them; 0 says that it begins. Any number comes before the job's
    `Outcome`."""

    number: int
    total: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job: arrays; or words of the target's own exception (`raised`), of an implementation that
    refuses (`refused`), or of a worker that died or timed out (`lost`). `notes` belong into the report. Of one with
    many arrays some come ahead, each time with `more`: the worker waits until it is told to go on."""

    key: int
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    raised: str | None = None
    refused: str | None = None
    lost: str | None = None
    seconds: float = 0.0
    peak_mib: int = 0
    notes: tuple[str, ...] = ()
    more: bool = False
