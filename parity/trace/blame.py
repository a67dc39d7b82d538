"""Which of the calls that differ is wrong, and which only pass it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from parity.trace.messages import ROOT
from parity.trace.results import AGREES, DIFFERS, HOLDS, PASSES, UNSURE, WRONG, Direction, Row, failed


def blame(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with the states of both directions.

    A call is wrong by itself if it differs alone, on the reference's inputs, and no call within it does. What lies in a
    container that agrees as a whole is not: two modules may divide their work otherwise (a residual inside or outside).
    """
    forward = _states([row.forward for row in rows], rows)
    backward = _states([row.backward for row in rows], rows)
    return tuple(
        dataclasses.replace(
            row,
            forward=dataclasses.replace(row.forward, state=forward[at]),
            backward=dataclasses.replace(row.backward, state=backward[at]),
        )
        for at, row in enumerate(rows)
    )


def first(rows: Sequence[Row]) -> tuple[Row | None, bool]:
    """The first that is wrong in order of execution; if none is, the first on the way back, and that it is that."""
    forward = [row for row in rows if row.forward.state == WRONG]
    backward = [row for row in reversed(rows) if row.backward.state == WRONG]
    if forward:
        return forward[0], False
    # The whole model is wrong only if nothing in it is, and stands last in both orders.
    inner = [row for row in backward if row.call.torch != ROOT]
    return next(iter(inner + backward), None), True


def starts(row: Row, rows: Sequence[Row], *, backward: bool) -> Row | None:
    """Where in a container that is wrong by itself: the first call in it that is given something else."""
    order = list(reversed(rows)) if backward else list(rows)
    inside = [other for other in order if other is not row and _lies_in(other, row)]
    return next((other for other in inside if failed((other.backward if backward else other.forward).given)), None)


def _states(directions: Sequence[Direction], rows: Sequence[Row]) -> list[str]:
    states: list[str] = []
    bad = [own_fault(direction) for direction in directions]
    for at, direction in enumerate(directions):
        within = [n for n in range(at) if _lies_in(rows[n], rows[at])]
        above = next((n for n in range(at + 1, len(rows)) if _lies_in(rows[at], rows[n])), None)
        harmless = above is not None and not _bad(directions[above])
        if any(states[n] in (WRONG, HOLDS) for n in within) and (bad[at] or direction.bad):
            states.append(HOLDS)
        elif bad[at] and not harmless:
            states.append(WRONG)
        elif bad[at]:
            states.append(DIFFERS)
        elif direction.bad:
            states.append(PASSES if direction.alone is not None else DIFFERS)
        else:
            verdicts = (direction.place, direction.alone)
            states.append(UNSURE if any(v is not None and v.status == "inconclusive" for v in verdicts) else AGREES)
    return states


def own_fault(direction: Direction) -> bool:
    """It differs alone; where it could not be run alone, it differs although it was given the same."""
    if direction.alone is not None:
        return failed(direction.alone)
    return direction.bad and direction.given is not None and not failed(direction.given)


def _bad(direction: Direction) -> bool:
    """As a container: alone, if that is known."""
    return direction.bad if direction.alone is None else failed(direction.alone)


def _lies_in(inner: Row, outer: Row) -> bool:
    return not outer.call.where or inner.call.where.startswith(outer.call.where + ".")
