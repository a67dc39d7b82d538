"""A side's results, handed over a few at a time: what has been taken is let go of before the next is copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from parity.channel import Channel
from parity.mapped import trim
from parity.messages import Outcome
from parity.pairs.messages import REFERENCE, SPREAD, TRUTH, UNCERTAIN

# Bytes that travel together at least; a single tensor may be more.
TOGETHER = 1 << 22


def hand_over(connection: Channel, outcome: Outcome, arrays: dict[str, np.ndarray]) -> None:
    """Send the arrays of an outcome that has none, the last few with it; all are gone from `arrays` then.

    Raises EOFError, or OSError, if nobody is there.
    """
    *ahead, last = parts(arrays)
    for names in ahead:
        connection.send(Outcome(outcome.key, {name: arrays.pop(name) for name in names}, more=True))
        connection.recv()
    connection.send(dataclasses.replace(outcome, arrays={name: arrays.pop(name) for name in last}))
    if ahead:
        trim()


def parts(arrays: dict[str, np.ndarray]) -> Iterator[list[str]]:
    """Names in their order, all that belongs to a quantity together. The last part may be empty.

    >>> big = np.ones(1 << 20, np.float32)
    >>> list(parts({"reference/y": big, "reference/dx": big, "truth/y": big, "truth/dx": big}))
    [['reference/y', 'truth/y'], ['reference/dx', 'truth/dx'], []]
    """
    quantities: dict[str, list[str]] = {}
    for name in arrays:
        word = next((word for word in (REFERENCE, TRUTH, SPREAD, UNCERTAIN) if name.startswith(word)), "")
        quantities.setdefault(name.removeprefix(word), []).append(name)
    part: list[str] = []
    for names in quantities.values():
        part += names
        if sum(arrays[name].nbytes for name in part) >= TOGETHER:
            yield part
            part = []
    yield part
