"""What a trace found: frozen data, from which the table and the JSON are made."""

from __future__ import annotations

import dataclasses

from parity.compare import Verdict
from parity.results import EXIT_ERROR, EXIT_MISMATCH, EXIT_NOTHING
from parity.trace.align import Aligned

WRONG, HOLDS, PASSES, DIFFERS, AGREES, UNSURE = (
    "wrong by itself",
    "holds a wrong one",
    "passes it on",
    "differs",
    "agrees",
    "inconclusive",
)


@dataclasses.dataclass(frozen=True)
class Direction:
    """A call, forward or backward: what it is given, what it returns, in the whole model and alone; `words` say why
    there is no judgement alone. `state` is one of the words above."""

    given: Verdict | None = None
    place: Verdict | None = None
    alone: Verdict | None = None
    words: str = ""
    state: str = AGREES

    @property
    def bad(self) -> bool:
        return failed(self.place)


@dataclasses.dataclass(frozen=True)
class Row:
    """An aligned call. Backward, it is given its output's gradient and returns those of its inputs and parameters."""

    call: Aligned
    forward: Direction
    backward: Direction


@dataclasses.dataclass(frozen=True)
class Trace:
    """A case's rows in order of execution; `first` is the one to look at, `cause` a guess in words, `inner` the first
    call within it that is given something else, `raised` that there are no rows because the port raised. `status` is
    that of a case: passed, failed, inconclusive, skipped or error, with a reason where there are no rows."""

    case: str
    status: str
    reason: str = ""
    rows: tuple[Row, ...] = ()
    left_out: tuple[str, ...] = ()
    first: Row | None = None
    backward: bool = False
    cause: str = ""
    inner: Row | None = None
    raised: bool = False
    seed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def failed(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status in ("failed", "error")


def exit_code(traces: list[Trace]) -> int:
    """3 an error, 1 a divergence, 4 nothing compared or something inconclusive, else 0."""
    statuses = {trace.status for trace in traces}
    if "error" in statuses:
        return EXIT_ERROR
    if "failed" in statuses:
        return EXIT_MISMATCH
    return EXIT_NOTHING if "inconclusive" in statuses or "passed" not in statuses else 0
