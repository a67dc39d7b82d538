"""What travels between a trace and its workers, besides what travels for a pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from parity.messages import Outcome
from parity.pairs.messages import PairJob

# The whole model, as if it were a call of a submodule without a path; its results have the names of outputs and inputs.
ROOT = "#0"


def key(path: str, number: int) -> str:
    """The `number`-th call of a module.

    >>> key("blocks.0.norm", 1)
    'blocks.0.norm#1'
    """
    return f"{path}#{number}"


def named(role: str, call: str, leaf: object) -> str:
    """The name of one array of a call. Roles are input, output, dinput, doutput."""
    return f"{role}|{call}|{leaf}"


def of(arrays: Mapping[str, np.ndarray], role: str, call: str) -> dict[str, np.ndarray]:
    """A call's arrays of one role by leaf, in order.

    >>> sorted(of({"input|fc#0|0": np.ones(2), "output|fc#0|0": np.ones(3)}, "input", "fc#0"))
    ['0']
    """
    start = named(role, call, "")
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of either side: `kind` is its class, `attributes` what of it may be a cause, in words of both sides."""

    path: str
    kind: str
    attributes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Forced:
    """What a Flax module's call is fed with alone: by the place of an input, and of an output's gradient."""

    inputs: Mapping[str, np.ndarray]
    cotangents: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TraceJob(PairJob):
    """A case to watch, or, with `alone`, calls of it to run each for itself: torch's on what they were given when the
    case was watched, Flax's on what is sent."""

    alone: Mapping[str, Forced | None] | None = None


@dataclasses.dataclass(frozen=True)
class Traced(Outcome):
    """`modules` in order of definition; `calls` by key, in the order in which they ended. `silent` says of modules and
    calls why nothing is known of them."""

    modules: tuple[Module, ...] = ()
    calls: tuple[str, ...] = ()
    silent: Mapping[str, str] = dataclasses.field(default_factory=dict)
